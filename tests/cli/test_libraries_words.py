"""What an exception of a library says goes to logs; people get words of ours."""

import ast
from collections.abc import Iterator
from typing import Final

from tests.support.processes import ROOT

SOURCE: Final = ROOT / "src" / "dtr"
TRANSLATORS: Final = {
    "reason_of", "sentence", "plain_reason", "problems_of", "unreached", "isinstance", "type",
    "is_lost", "_translated", "translated", "_why", "_where", "_told", "_reason", "_words",
    "getattr", "_remedy", "_why_not",
}  # fmt: skip
"""Functions that turn an exception into words of ours, and those that do not make text of it."""
FACTS: Final = {"strerror", "errno", "filename", "lineno", "colno", "sqlstate", "host", "status"}
"""What of an exception is a fact, or a word of the system that everybody knows."""
OURS: Final = "what is raised there is an error of ours, with a sentence of ours"
REVIEWED: Final[dict[str, str]] = {
    "cli/cluster/balancers.py: fail(str(error))": OURS,
    "cli/repositories.py: fail(str(error))": OURS,
    "cli/tokens.py: fail(str(error))": OURS,
    "cluster/api.py: raise ApiError(500, 'UNREADABLE', f'A record of the cluster cannot be read by "
    "this version ({error.title}). Install the version that wrote it, or a later one.') from "
    "None": "the title is the name of the record",
    "cluster/engines/web_certificate.py: self._error = str(error) or reason_of(error)": OURS,
    "cluster/loop.py: return f'a record of the cluster cannot be read by this version "
    "({error.title}: {error.error_count()} problems); nothing is changed'": "as above",
    "database/postgresql/errors.py: return ' '.join(str(origin_of(error)).split()) or "
    "type(error).__name__": "for logs, and for plain_reason to look at",
    "database/postgresql/location.py: said = str(error)": "only looked at",
    "database/proof.py: raise UnavailableError(f'cannot {what} the database: {error}') from "
    "error": OURS,
    "database/proof.py: return str(error)": OURS,
    "jobs/execution.py: return str(error)": OURS,
    "server/errors.py: entry = {'code': code, 'message': str(error), 'detail': error.detail}": OURS,
    "server/settings_sources.py: found = _POSITION.search(str(error))": "only the position is used",
    "storage/bucket.py: text = str(error)": "only the store's code and message are used",
    "storage/opening.py: raise InvalidError(f'the storage URL {error}') from None": OURS,
    'server/front.py: front.warn("no web worker takes a balancer\'s connection", '
    "error=str(error))": "for logs",
    "transfer/importer.py: reason = f'not all that refers to it could be found: {said(error)}'": (
        "as in transfer/outcome.py"
    ),
    "transfer/importer.py: reason = f'what it is about {subject} could not be brought: "
    "{said(error)}'": "as in transfer/outcome.py",
    "transfer/outcome.py: return str(error)": OURS,
    "ucp/controller/server.py: status, code, message = (412, 'PRECONDITION_FAILED', "
    "f'{error}.')": OURS,
    "ucp/agent/controllers.py: return str(error)": OURS,
    "ucp/agent/convergence.py: text = str(error) or _UNEXPECTED": OURS,
    "ucp/agent/keeper.py: why = str(error) if isinstance(error, SupervisionError) else "
    "reason_of(error)": OURS,
    "ucp/client.py: text = str(error)": "only looked at",
    "ucp/controller/server.py: message = f'{str(error).capitalize()}. Wait "
    "{error.retry_after_seconds:.0f} s.'": OURS,
    "ucp/controller/server.py: response.headers['Retry-After'] = str(max(1, "
    "math.ceil(error.retry_after_seconds)))": "a number",
    "ucp/controller/server.py: status, code, message = (400, 'INVALID', str(error))": OURS,
    "ucp/controller/server.py: status, code, message = (error.status, 'REFUSED', "
    "f'{error.reason}.')": "the words of HTTP",
    "ucp/controller/server.py: status, code, message = (error.status, error.code, "
    "str(error))": OURS,
    "ucp/leading.py: self._tell(loop, f'the cycle failed: {error!r}', error)": "a line of the log",
}
"""Where the text of an exception is used after all, and why that is right."""


def names_of_ours() -> set[str]:
    """Return the names of all exceptions that this program defines."""
    trees = (ast.parse(path.read_text()) for path in SOURCE.rglob("*.py"))
    classes = {
        each.name for tree in trees for each in ast.walk(tree) if isinstance(each, ast.ClassDef)
    }
    return {name for name in classes if name.endswith("Error")}


def is_foreign(kind: ast.expr | None, ours: set[str]) -> bool:
    """Tell whether an exception of somebody else may be caught there."""
    if kind is None:
        return True
    parts = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return not all(isinstance(each, ast.Name) and each.id in ours for each in parts)


def scopes(tree: ast.AST, ours: set[str]) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Yield the name of each foreign exception with the statements that see it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name and is_foreign(node.type, ours):
            yield node.name, node.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for argument in node.args.args:
                kind = ast.unparse(argument.annotation) if argument.annotation else ""
                if kind.endswith(("Error", "Exception")) and kind not in ours:
                    yield argument.arg, node.body


def mentions(node: ast.AST, name: str) -> bool:
    """Tell whether an expression has an exception in it, other than in a fact or translated."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in TRANSLATORS:
        return False
    if isinstance(node, ast.Attribute) and node.attr in FACTS:
        return False
    if isinstance(node, ast.Name):
        return node.id == name
    return any(mentions(each, name) for each in ast.iter_child_nodes(node))


def texts(node: ast.AST, name: str) -> Iterator[ast.expr]:
    """Yield the places at which what the exception says becomes text for people."""
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called.startswith("_LOG.") or called in TRANSLATORS:
            return
        is_text = called in {"str", "repr"} or called.endswith("Error")
        if is_text and any(isinstance(each, ast.Name) and each.id == name for each in node.args):
            yield node
            return
        if called in {"str", "repr"} and any(mentions(each, name) for each in node.args):
            yield node
            return
    if isinstance(node, ast.Compare):  # what it says is looked at, and not shown
        return
    if isinstance(node, ast.Attribute) and node.attr in FACTS:
        return
    if isinstance(node, ast.FormattedValue) and mentions(node.value, name):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from texts(child, name)


def simple_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that have no others in them."""
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.stmt) and not hasattr(node, "body") and not hasattr(node, "cases"):
            yield node


def found() -> Iterator[str]:
    """Yield each place, as `file: statement` on one line."""
    ours = names_of_ours()
    for path in sorted(SOURCE.rglob("*.py")):
        for name, body in scopes(ast.parse(path.read_text()), ours):
            for statement in simple_statements(body):
                if any(True for _ in texts(statement, name)):
                    yield f"{path.relative_to(SOURCE)}: {' '.join(ast.unparse(statement).split())}"


def test_no_message_for_people_quotes_an_exception_of_a_library() -> None:
    """Each place where one is used after all was looked at, and is in the list."""
    places = set(found())
    assert places == set(REVIEWED)
