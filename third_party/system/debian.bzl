"""Repositories for libraries that Debian has installed, with an error that names the missing package."""

def _require(repository_ctx):
    for header in repository_ctx.attr.headers:
        if not repository_ctx.path("/usr/include/" + header).exists:
            fail("Handoff needs <{}>: install the Debian package {} (./bazelw does)".format(
                header,
                repository_ctx.attr.package,
            ))

def _debian_library_impl(repository_ctx):
    _require(repository_ctx)
    repository_ctx.symlink(repository_ctx.attr.build_file, "BUILD")

debian_library = repository_rule(
    implementation = _debian_library_impl,
    local = True,
    attrs = {
        "build_file": attr.label(mandatory = True, doc = "becomes the BUILD file"),
        "headers": attr.string_list(mandatory = True, doc = "must exist, below /usr/include"),
        "package": attr.string(mandatory = True, doc = "the Debian package that has them"),
    },
)

def _debian_abseil_impl(repository_ctx):
    _require(repository_ctx)
    repository_ctx.symlink(repository_ctx.attr.build_file, "BUILD")
    for source in repository_ctx.attr.srcs:
        repository_ctx.symlink(source, source.name)
    for directory, names in repository_ctx.attr.targets.items():
        lines = ["""package(default_visibility = ["//visibility:public"])""", ""]
        for name in names:
            lines.append("""cc_library(name = "{}", deps = ["//:linked"])""".format(name))
        repository_ctx.file(directory + "/BUILD", "\n".join(lines) + "\n", executable = False)

debian_abseil = repository_rule(
    doc = "Like debian_library, for a library of many packages: each target below stands for the whole library.",
    implementation = _debian_abseil_impl,
    local = True,
    attrs = {
        "build_file": attr.label(mandatory = True, doc = "the root BUILD file, with a target `linked`"),
        "headers": attr.string_list(mandatory = True, doc = "must exist, below /usr/include"),
        "package": attr.string(mandatory = True, doc = "the Debian package that has them"),
        "srcs": attr.label_list(doc = "further files of the root package"),
        "targets": attr.string_list_dict(mandatory = True, doc = "folder: names of its targets"),
    },
)

def _stand_in_impl(repository_ctx):
    for path, content in repository_ctx.attr.files.items():
        repository_ctx.file(path, content, executable = False)

stand_in = repository_rule(
    doc = "A repository of a few short files, in the place of one that Debian's Bazel wants and Debian has not.",
    implementation = _stand_in_impl,
    attrs = {"files": attr.string_dict(mandatory = True, doc = "path: content")},
)
