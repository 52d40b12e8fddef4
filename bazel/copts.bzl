"""Compiler options of Handoff's own code. They never reach third-party code or users' targets."""

# Warnings are errors here. The language level and everything else that must be the same in all of a build is in .bazelrc.
HANDOFF_COPTS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Werror",
]
