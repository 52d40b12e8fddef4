"""Compiler options of Handoff's own code. They reach neither third-party code nor users' targets."""

# The language level, -Werror and all else that concerns a whole build is in .bazelrc.
HANDOFF_COPTS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    # clang counts it as a conversion and gcc does not; the same code is to be clean with both.
    "-Wno-sign-conversion",
]
