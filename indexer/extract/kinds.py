"""Which family a file belongs to, by its name alone."""

from __future__ import annotations

from pathlib import Path

import msgspec

from indexer.api import Media


class Kind(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a file is read.

    Attributes:
        code_language: Lower-case name, also known to Pygments, for source code.
        dialect: Finer than `media`: which plain text markup or table (``rst``, ``org``, ``csv``);
            empty for none.
        certain: False where the name says nothing, so that the content decides; such a file is
            indexed when it turns out to be text.
    """

    media: Media
    code_language: str | None = None
    dialect: str = ""
    certain: bool = True


_CODE = {
    "ada": "adb ads",
    "asm": "asm",
    "awk": "awk",
    "bash": "sh bash zsh ksh bats ebuild",
    "batch": "bat cmd",
    "c": "c h",
    "clojure": "clj cljs cljc edn",
    "cmake": "cmake",
    "cpp": "cc cpp cxx c++ hh hpp hxx h++ ipp tpp ino cu cuh",
    "csharp": "cs csx",
    "css": "css",
    "cython": "pyx pxd pxi",
    "d": "d",
    "dart": "dart",
    "diff": "diff patch",
    "docker": "dockerfile containerfile",
    "elixir": "ex exs",
    "elm": "elm",
    "emacs-lisp": "el",
    "erlang": "erl hrl",
    "fish": "fish",
    "fortran": "f f77 f90 f95 f03 f08 for",
    "fsharp": "fs fsi fsx",
    "gdscript": "gd",
    "glsl": "glsl vert frag geom comp",
    "go": "go",
    "graphql": "graphql gql",
    "groovy": "groovy gradle",
    "haskell": "hs lhs",
    "html+php": "phtml",
    "ini": "ini cfg conf cnf properties desktop service socket timer editorconfig",
    "java": "java",
    "javascript": "js mjs cjs jsx",
    "json": "json json5 jsonc jsonl ndjson geojson webmanifest",
    "julia": "jl",
    "kotlin": "kt kts",
    "less": "less",
    "lua": "lua",
    "make": "mk mak make",
    "matlab": "m",
    "meson": "meson",
    "nim": "nim nims",
    "nix": "nix",
    "objective-c": "mm",
    "ocaml": "ml mli",
    "pascal": "pas pp lpr dpr",
    "perl": "pl pm t",
    "php": "php php5 php7 inc",
    "powershell": "ps1 psm1 psd1",
    "prolog": "pro prolog",
    "protobuf": "proto",
    "python": "py pyi pyw",
    "qml": "qml",
    "r": "r",
    "racket": "rkt",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "sass": "sass",
    "scala": "scala sc sbt",
    "scheme": "scm ss",
    "scss": "scss",
    "solidity": "sol",
    "sql": "sql ddl dml",
    "swift": "swift",
    "systemverilog": "sv svh",
    "tcl": "tcl",
    "terraform": "tf tfvars hcl",
    "toml": "toml",
    "tsx": "tsx",
    "typescript": "ts mts cts",
    "verilog": "v vh",
    "vhdl": "vhd vhdl",
    "vim": "vim",
    "vue": "vue svelte",
    "xml": "xml xsd xsl xslt rng wsdl plist ui qrc ts_xml",
    "yaml": "yaml yml clang-format clang-tidy",
    "zig": "zig",
}
_TEXT = {
    "": "txt text log out err nfo srt vtt sub eml mbox po pot bib ris lst tab0 1st",
    "adoc": "adoc asciidoc asc",
    "csv": "csv tsv tab psv",
    "org": "org",
    "rst": "rst rest",
    "tex": "tex latex ltx sty cls",
    "wiki": "wiki mediawiki textile",
}
_NAMES = {
    "bash": ".bashrc .bash_profile .bash_aliases .profile .zshrc .zprofile pkgbuild apkbuild",
    "cmake": "cmakelists.txt",
    "docker": "dockerfile containerfile",
    "groovy": "jenkinsfile",
    "ini": ".gitconfig .npmrc .pylintrc .editorconfig setup.cfg",
    "json": "pipfile.lock composer.lock .babelrc .eslintrc .prettierrc",
    "make": "makefile gnumakefile kbuild",
    "meson": "meson.build meson_options.txt",
    "ruby": "rakefile gemfile vagrantfile podfile brewfile",
    "starlark": "build build.bazel workspace.bazel buck",
    "toml": "cargo.lock poetry.lock pipfile",
    "vim": ".vimrc .gvimrc",
}
# Formats that are no text and that nothing here reads; told by name so that they cost nothing.
_OPAQUE = """
    7z a aac ai aif aiff apk appimage ar arw avi avif azw azw3 bin blend bmp br bz2 cab cbr cbz chm
    class com cr2 crx cur dat db db-shm db-wal deb dex djvu dll dmg dng doc docm docx dot dotx dylib ear
    eot eps exe fb2 fdb fla flac flv ggml gguf gif glb gz h5 hdf5 heic heif icns ico idx img ipynb iso
    jar jpe jpeg jpg jxl kdbx key lib lnk lz lz4 lzma m4a m4b m4v map mat mdb mid midi mkv mo mobi mov
    mp3 mp4 mpeg mpg msg msi nef npy npz numbers nupkg o obj odg odp ods odt oga ogg ogv onnx opus orf
    ost otf pack pages parquet pb pcap pickle pkl png ppt pptm pptx ps psd pst pt pth pyc pyd pyo qm rar
    raw rdb rlib rm rpm rtf rw2 safetensors ser snap so sqlite sqlite3 sqlitedb svg svgz swf swp tar
    tbz2 tflite tga tgz tif tiff torrent ttc ttf txz vdi vhd vhdx vmdk vob war wasm wav wbmp webm webp
    whl wma wmf wmv woff woff2 xcf xls xlsb xlsm xlsx xpi xps xz z zip zst
"""


def _table() -> dict[str, Kind | None]:
    table: dict[str, Kind | None] = dict.fromkeys(_OPAQUE.split())
    for language, extensions in _CODE.items():
        kind = Kind(media="code", code_language=language)
        table.update(dict.fromkeys(extensions.split(), kind))
    for dialect, extensions in _TEXT.items():
        table.update(dict.fromkeys(extensions.split(), Kind(media="text", dialect=dialect)))
    table.update(
        dict.fromkeys(("md", "markdown", "mkd", "mdx", "mdown", "qmd", "rmd"), Kind(media="markdown"))
    )
    table.update(dict.fromkeys(("html", "htm", "xhtml", "xht", "shtml"), Kind(media="html")))
    table["pdf"] = Kind(media="pdf")
    table["epub"] = Kind(media="epub")
    return table


_BY_EXTENSION = _table()
_BY_NAME = {
    name: Kind(media="code", code_language=language)
    for language, names in _NAMES.items()
    for name in names.split()
}
# Endings that say what a file is for, behind the one that says what it is.
_WRAPPERS = frozenset(("bak", "dist", "example", "in", "old", "orig", "sample", "template", "tmpl", "tpl"))
_UNKNOWN = Kind(media="text", certain=False)

_INTERPRETERS = {
    "ash": "bash",
    "awk": "awk",
    "bash": "bash",
    "bun": "javascript",
    "dash": "bash",
    "deno": "typescript",
    "elixir": "elixir",
    "fish": "fish",
    "gawk": "awk",
    "groovy": "groovy",
    "julia": "julia",
    "ksh": "bash",
    "lua": "lua",
    "luajit": "lua",
    "make": "make",
    "node": "javascript",
    "nodejs": "javascript",
    "perl": "perl",
    "php": "php",
    "pwsh": "powershell",
    "pypy": "python",
    "python": "python",
    "rscript": "r",
    "ruby": "ruby",
    "sh": "bash",
    "swift": "swift",
    "tclsh": "tcl",
    "ts-node": "typescript",
    "wish": "tcl",
    "zsh": "bash",
}


def kind_of(path: Path) -> Kind | None:
    """How a file of this name is read; the file itself is not looked at.

    Args:
        path: The file; only its name counts.

    Returns:
        The kind, with `Kind.certain` False where the name says nothing, or None for a name that
        belongs to a format nothing here reads (images, archives, programs).
    """
    name = path.name.lower()
    if known := _BY_NAME.get(name):
        return known
    if name.startswith(("dockerfile.", "containerfile.", "makefile.")):
        return _BY_NAME[name.partition(".")[0]]
    parts = name.rstrip("~").lstrip(".").split(".")[1:]
    if len(parts) > 1 and parts[-1] in _WRAPPERS:
        parts.pop()
    # Sphinx publishes its sources as .rst.txt.
    if len(parts) > 1 and parts[-1] == "txt" and parts[-2] in ("rst", "adoc", "org", "md", "tex", "html"):
        parts.pop()
    return _BY_EXTENSION.get(parts[-1], _UNKNOWN) if parts else _UNKNOWN


def language_of_shebang(first_line: str) -> str | None:
    """The language of a script by its first line, such as ``#!/usr/bin/env python3``."""
    if not first_line.startswith("#!"):
        return None
    words = first_line[2:].split()
    while words:
        program = words.pop(0).replace("\\", "/").rpartition("/")[2].lower()
        if program == "env" or program.startswith("-") or "=" in program:
            continue
        program = program.removesuffix(".exe")
        return _INTERPRETERS.get(program) or _INTERPRETERS.get(program.rstrip("0123456789."))
    return None
