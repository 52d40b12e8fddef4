"""A test that kills what it runs after some of its instructions, and the long one that does so after each."""

load("@rules_cc//cc:defs.bzl", "cc_test")
load("//bazel:copts.bzl", "HANDOFF_COPTS")

# `every_name`: the long one, for hours of an idle night. No sanitizer: they cannot be traced.
def kill_test(name, every_name, srcs, deps):
    cc_test(
        name = name,
        size = "medium",
        srcs = srcs,
        copts = HANDOFF_COPTS,
        tags = ["nosan"],
        deps = deps,
    )
    cc_test(
        name = every_name,
        size = "enormous",
        srcs = srcs,
        copts = HANDOFF_COPTS,
        env = {"HANDOFF_KILL_EVERY_INSTRUCTION": "1"},
        tags = [
            "long",
            "nosan",
        ],
        deps = deps,
    )
