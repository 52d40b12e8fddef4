"""A test that kills what it runs after some of its instructions, and the long one that does so after each."""

load("@rules_cc//cc:defs.bzl", "cc_test")
load("//bazel:copts.bzl", "HANDOFF_COPTS")

# `every_name`: the long one. Of an operation with more than `kill_points` instructions it takes about so many, evenly spread from a
# random start, so that each shard ends within its hour; the report says how many. No sanitizer: they cannot be traced.
def kill_test(name, every_name, srcs, deps, kill_points = 3000):
    cc_test(
        name = name,
        size = "medium",
        timeout = "eternal",  # "long" would count as the tag of that name
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
        env = {
            "HANDOFF_KILL_EVERY_INSTRUCTION": "1",
            "HANDOFF_KILL_POINTS": str(kill_points),
        },
        shard_count = 8,
        tags = [
            "long",
            "nosan",
        ],
        deps = deps,
    )
