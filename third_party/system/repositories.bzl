"""All repositories of the build without network. A library that is added here is added to MODULE.bazel too."""

load("//third_party/system:debian.bzl", "debian_abseil", "debian_library", "stand_in")

# The targets of Abseil that Handoff may use, as its own BUILD files name them.
_ABSEIL = {
    "absl/algorithm": ["algorithm", "container"],
    "absl/base": ["base", "config", "core_headers", "dynamic_annotations", "log_severity"],
    "absl/cleanup": ["cleanup"],
    "absl/container": [
        "btree",
        "fixed_array",
        "flat_hash_map",
        "flat_hash_set",
        "inlined_vector",
        "node_hash_map",
        "node_hash_set",
    ],
    "absl/debugging": ["failure_signal_handler", "leak_check", "stacktrace", "symbolize"],
    "absl/functional": ["any_invocable", "bind_front", "function_ref"],
    "absl/hash": ["hash"],
    "absl/memory": ["memory"],
    "absl/meta": ["type_traits"],
    "absl/numeric": ["bits", "int128"],
    "absl/random": ["bit_gen_ref", "distributions", "random", "seed_sequences"],
    "absl/status": ["status", "statusor"],
    "absl/strings": ["cord", "str_format", "strings"],
    "absl/synchronization": ["synchronization"],
    "absl/time": ["time"],
    "absl/types": ["compare", "span"],
    "absl/utility": ["utility"],
}

# What the rules of Debian's Bazel load from rules_cc: the native rules under the names of that repository.
_RULES_CC = """
cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_proto_library = native.cc_proto_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
objc_library = native.objc_library
"""

_RULES_JAVA = """
java_binary = native.java_binary
java_import = native.java_import
java_library = native.java_library
java_proto_library = native.java_proto_library
java_runtime = native.java_runtime
java_toolchain = native.java_toolchain
"""

_RULES_PROTO = """
proto_lang_toolchain = native.proto_lang_toolchain
proto_library = native.proto_library
"""

_COVERAGE = """
filegroup(
    name = "coverage_report_generator",
    visibility = ["//visibility:public"],
)
"""

def system_repositories():
    stand_in(name = "rules_cc", files = {"cc/BUILD": "", "cc/defs.bzl": _RULES_CC})
    stand_in(name = "rules_java", files = {"java/BUILD": "", "java/defs.bzl": _RULES_JAVA})
    stand_in(name = "rules_proto", files = {"proto/BUILD": "", "proto/defs.bzl": _RULES_PROTO})
    stand_in(name = "remote_coverage_tools", files = {"BUILD": _COVERAGE})

    debian_abseil(
        name = "abseil-cpp",
        build_file = Label("//third_party/system:abseil-cpp.BUILD"),
        headers = ["absl/status/statusor.h"],
        package = "libabsl-dev",
        srcs = [Label("//third_party/system:abseil_tsan.cc")],
        targets = _ABSEIL,
    )
    debian_library(
        name = "boost.interprocess",
        build_file = Label("//third_party/system:boost.interprocess.BUILD"),
        headers = ["boost/interprocess/mapped_region.hpp"],
        package = "libboost1.81-dev",
    )
    debian_library(
        name = "boringssl",
        build_file = Label("//third_party/system:boringssl.BUILD"),
        headers = ["openssl/sha.h"],
        package = "libssl-dev",
    )
    debian_library(
        name = "cpp-httplib",
        build_file = Label("//third_party/system:cpp-httplib.BUILD"),
        headers = ["httplib.h"],
        package = "libcpp-httplib-dev",
    )
    debian_library(
        name = "cppzmq",
        build_file = Label("//third_party/system:cppzmq.BUILD"),
        headers = ["zmq.hpp"],
        package = "cppzmq-dev",
    )
    debian_library(
        name = "gflags",
        build_file = Label("//third_party/system:gflags.BUILD"),
        headers = ["gflags/gflags.h"],
        package = "libgflags-dev",
    )
    debian_library(
        name = "google_benchmark",
        build_file = Label("//third_party/system:google_benchmark.BUILD"),
        headers = ["benchmark/benchmark.h"],
        package = "libbenchmark-dev",
    )
    debian_library(
        name = "googletest",
        build_file = Label("//third_party/system:googletest.BUILD"),
        headers = ["gtest/gtest.h", "gmock/gmock.h"],
        package = "libgmock-dev",
    )
    debian_library(
        name = "libzmq",
        build_file = Label("//third_party/system:libzmq.BUILD"),
        headers = ["zmq.h"],
        package = "libzmq3-dev",
    )
    debian_library(
        name = "ncurses",
        build_file = Label("//third_party/system:ncurses.BUILD"),
        headers = ["ncurses.h"],
        package = "libncurses-dev",
    )
    debian_library(
        name = "nlohmann_json",
        build_file = Label("//third_party/system:nlohmann_json.BUILD"),
        headers = ["nlohmann/json.hpp"],
        package = "nlohmann-json3-dev",
    )
    debian_library(
        name = "spdlog",
        build_file = Label("//third_party/system:spdlog.BUILD"),
        headers = ["spdlog/spdlog.h"],
        package = "libspdlog-dev",
    )
