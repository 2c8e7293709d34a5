"""Which tree-sitter grammar reads which language, and what its nodes mean to us."""

from __future__ import annotations

import functools
import importlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

# Language -> module of the grammar's wheel, and the function in it that gives the grammar.
_GRAMMARS = {
    "bash": ("tree_sitter_bash", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "csharp": ("tree_sitter_c_sharp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "kotlin": ("tree_sitter_kotlin", "language"),
    "lua": ("tree_sitter_lua", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "python": ("tree_sitter_python", "language"),
    "ruby": ("tree_sitter_ruby", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "scala": ("tree_sitter_scala", "language"),
    "swift": ("tree_sitter_swift", "language"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
}
_ALIASES = {"shell": "bash", "cuda": "cpp", "arduino": "cpp", "jsx": "javascript", "c#": "csharp"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTIONS = _words(
    "function_definition function_declaration generator_function_declaration function_item "
    "method_definition method_declaration constructor_declaration destructor_declaration method "
    "singleton_method init_declaration deinit_declaration secondary_constructor operator_declaration "
    "local_function_statement macro_definition property_declaration compact_constructor_declaration "
    "subscript_declaration protocol_function_declaration preproc_function_def"
)
CONTAINERS = _words(
    "class_definition class_declaration abstract_class_declaration class_specifier class module "
    "interface_declaration enum_declaration record_declaration struct_declaration trait_declaration "
    "annotation_type_declaration struct_specifier union_specifier enum_specifier namespace_definition "
    "namespace_declaration internal_module impl_item trait_item struct_item enum_item union_item mod_item "
    "type_declaration type_alias_declaration object_declaration companion_object object_definition "
    "trait_definition enum_definition protocol_declaration extension_definition record_struct_declaration "
    "type_definition package_object"
)
# Holders of a function: `const f = () => ...`, `M.f = function`, `export`, decorators, templates.
WRAPPERS = _words(
    "decorated_definition export_statement template_declaration lexical_declaration variable_declaration "
    "variable_declarator expression_statement assignment_expression ambient_declaration declaration "
    "field_definition public_field_definition assignment_statement"
)
COMMENTS = _words(
    "comment line_comment block_comment multiline_comment doc_comment attribute_item decorator "
    "attribute_list annotation"
)
_NEED_BODY = _words("struct_specifier union_specifier enum_specifier class_specifier namespace_definition")
_NAMES = _words(
    "identifier field_identifier type_identifier simple_identifier qualified_identifier word name "
    "constant destructor_name operator_name property_identifier namespace_identifier user_type"
)
_FUNCTION_VALUES = frozenset(
    {"arrow_function", "function_expression", "function", "generator_function", "function_definition"}
)
_TYPE_ARGUMENTS = re.compile(r"(?<=\w)<[^<>]*>")
_MAX_NAME = 80
_STEPS = 2_000
_STEPS_PER_KB = 60
_PIECE_BYTES = 1024
_PIECES = 4_000
_PIECES_PER_KB = 200


@functools.cache
def _parser(language: str) -> Parser | None:
    """The parser of a language, made when first asked for; None where there is no grammar."""
    name = language.lower()
    grammar = _GRAMMARS.get(_ALIASES.get(name, name))
    if grammar is None:
        return None
    try:
        module = importlib.import_module(grammar[0])
    except ImportError:  # a platform without a wheel of it
        return None
    import tree_sitter

    return tree_sitter.Parser(tree_sitter.Language(getattr(module, grammar[1])()))


def parse(language: str, source: bytes) -> Node | None:
    """Parse source code, errors and all.

    Args:
        language: Lower-case name such as ``python``.
        source: UTF-8.

    Returns:
        The root of the tree; None where there is no grammar for the language, or where the source is so
        broken that mending it takes the parser more steps than any real file does.
    """
    reader = _parser(language)
    if reader is None:
        return None
    # Steps and pieces, not seconds, so that the same file always gives the same chunks. Real files take 5
    # steps a kilobyte, the worst of random brackets 25; and 2 pieces, the worst of 20,000 real ones 26. A
    # step may go through all of the file, and again, for the end of something that has none.
    steps = _STEPS + len(source) * _STEPS_PER_KB // 1000
    most = _PIECES + len(source) * _PIECES_PER_KB // 1000
    whole = memoryview(source)
    # What a callback returns is never given back by the binding 0.26.1 (parser_read_wrapper keeps the
    # reference that it got beside the buffer's), up to 2 GiB for a file of 200 kB when it was a copy of the
    # text. A view holds nothing once it is released.
    pieces: list[memoryview] = []

    def piece(offset: int, _point: object) -> memoryview:
        # A character goes over the end of a piece: never less than one is handed out.
        found = whole[offset : (offset // _PIECE_BYTES + 1) * _PIECE_BYTES + 4]
        pieces.append(found)
        return found

    # Asked after every hundred operations of the parser.
    def give_up(_offset: int, _broken: bool) -> bool:
        nonlocal steps
        steps -= 1
        return steps < 0 or len(pieces) >= most

    try:
        tree = reader.parse(piece, progress_callback=give_up)
    except ValueError:
        reader.reset()
        return None
    except SystemError as error:  # how the binding says that a callback raised
        reader.reset()
        raise MemoryError from error
    finally:
        for view in pieces:
            view.release()
        whole.release()
    return tree.root_node


def definition(node: Node, source: bytes) -> str | None:
    """The name of what a node of a source defines; None where it defines nothing that can be named."""
    kind = node.type
    if kind == "property_declaration" and node.start_point[0] == node.end_point[0]:
        return None  # a field
    if kind in _NEED_BODY and node.child_by_field_name("body") is None:
        return None
    if kind in ("variable_declarator", "field_definition", "public_field_definition"):
        value = node.child_by_field_name("value")
        named = node.child_by_field_name("name") or node.child_by_field_name("property")
        return (
            _text(named, source) if value is not None and value.type in _FUNCTION_VALUES and named else None
        )
    if kind == "assignment_expression":
        value, named = node.child_by_field_name("right"), node.child_by_field_name("left")
        return (
            _text(named, source) if value is not None and value.type in _FUNCTION_VALUES and named else None
        )
    if kind not in FUNCTIONS and kind not in CONTAINERS:
        return None
    if kind == "impl_item":
        named = node.child_by_field_name("type")
        return _text(named, source).split("<", 1)[0] if named is not None else None
    named = node.child_by_field_name("name") or _declared(node) or _first_name(node)
    if named is None:
        return {
            "init_declaration": "init",
            "deinit_declaration": "deinit",
            "companion_object": "Companion",
        }.get(kind)
    name = _text(named, source)
    if kind == "method_declaration":
        receiver = node.child_by_field_name("receiver")
        if receiver is not None:  # Go
            owner = _text(receiver, source).strip("()").split(" ")[-1].lstrip("*").split("[", 1)[0]
            name = f"{owner}.{name}" if owner else name
    return name or None


def _declared(node: Node) -> Node | None:
    """C and C++ hide the name in declarators: ``int *f(void)``."""
    inner = node.child_by_field_name("declarator")
    for _ in range(12):
        if inner is None:
            return None
        if inner.type in _NAMES:
            return inner
        deeper = inner.child_by_field_name("declarator")
        if deeper is None:
            deeper = next(
                (
                    child
                    for child in inner.named_children[:4]
                    if child.type in _NAMES or "declarator" in child.type
                ),
                None,
            )
        inner = deeper
    return None


def _first_name(node: Node) -> Node | None:
    for child in node.named_children[:8]:
        if child.type in _NAMES:
            return child
        if child.type in ("type_spec", "type_alias"):  # Go
            return child.child_by_field_name("name")
    return None


def _text(node: Node, source: bytes) -> str:
    raw = source[node.start_byte : node.end_byte]
    name = " ".join(raw[: 4 * _MAX_NAME].decode("utf-8", "replace").split())
    return _TYPE_ARGUMENTS.sub("", name).replace("::", ".").replace(":", ".")[:_MAX_NAME]
