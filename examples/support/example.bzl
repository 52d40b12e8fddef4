"""An example: one program in main.cc, and the test that it prints what it should."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_test")
load("//bazel:copts.bzl", "HANDOFF_COPTS")

# `prints`: all lines of the output, in any order, since several processes print them.
def example(name, prints):
    cc_binary(
        name = name,
        srcs = ["main.cc"],
        copts = HANDOFF_COPTS,
        deps = ["//examples/support:example", "//transport"],
    )
    cc_test(
        name = name + "_test",
        size = "small",
        srcs = ["//examples/support:example_test.cc"],
        args = ["$(location :%s)" % name] + ["'%s'" % line for line in prints],
        copts = HANDOFF_COPTS,
        data = [":" + name],
        deps = ["@googletest//:gtest"],
    )
