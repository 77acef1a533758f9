# noqa: INP001 (a script by itself)
"""Make the root of the container image: what runs DTR, and nothing that only builds or explains it.

    container_root.py TARGET PREFIX     PREFIX is the virtual environment that DTR was installed to

The base image brings a package manager, a compiler's leftovers, documentation and locales; the
wheels bring symbols for debuggers, tests and descriptions of services that nobody calls. TARGET
gets the interpreter with its library, the shared libraries that anything needs (`ldd`), the
certificates of the system, a shell, `cat`, and PREFIX, trimmed. Nothing outside of TARGET and
PREFIX is changed. Python is kept as byte code only; a traceback still has the file and the line.
"""

import compileall
import os
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

USER = 4873
# A shell to look around with, and what docs/operating.md shows the first password with.
PROGRAMS = (Path("/bin/sh"), Path("/bin/cat"))
# What S3's clients read: the service, and how credentials are got for it.
SERVICES = frozenset({"s3", "sso", "sso-oidc", "sts", "signin"})
LEXERS = frozenset({"__init__.py", "_mapping.py", "python.py", "special.py", "text.py"})
SOURCES = frozenset({".c", ".cc", ".cpp", ".h", ".pxd", ".pxi", ".pyi", ".pyx"})
UNUSED_LIBRARY = frozenset(
    {"__pycache__", "config", "dist-packages", "distutils", "ensurepip", "idlelib", "lib2to3"}
    | {"pydoc_data", "site-packages", "test", "tests", "tkinter", "turtle.py", "turtledemo"}
)
UNUSED_EXTENSIONS = ("_ctypes_test", "_dbm", "_gdbm", "_test", "_tkinter", "_xx", "nis.", "xx")
LOADED_LATER = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
SCRIPTS = "migrations"  # Alembic reads them as they were written
UNDOCUMENTED = frozenset({"botocore", "sqlalchemy"})
ETC = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\ndtr:x:{USER}:{USER}::/var/lib/dtr:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/bin/sh\n",
    "group": f"root:x:0:\ndtr:x:{USER}:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def main() -> None:
    """Trim PREFIX, then copy it and what it needs to TARGET."""
    target, prefix = Path(sys.argv[1]), Path(sys.argv[2])
    trim(prefix)
    assemble(target, prefix)


def trim(prefix: Path) -> None:
    """Take out of an environment what its programs do not read; strip and compile the rest."""
    for packages in prefix.glob("lib/python*/site-packages"):
        remove(unneeded(packages))
        strip(packages.rglob("*.so*"))
        compile_packages(packages, UNDOCUMENTED)


def unneeded(packages: Path) -> Iterator[Path]:
    """Yield what nobody reads while DTR runs."""
    for service in (packages / "botocore" / "data").glob("*"):
        if service.is_dir() and service.name not in SERVICES:
            yield service
    for lexer in (packages / "pygments" / "lexers").glob("*.py"):
        if lexer.name not in LEXERS:
            yield lexer
    yield from packages.glob("*/tests")
    yield from packages.glob("*-stubs")
    yield from (packages / "sqlalchemy" / "testing", packages / "alembic" / "testing")
    yield from (path for path in packages.rglob("*") if path.suffix in SOURCES and path.is_file())
    yield from packages.rglob("__pycache__")


def remove(paths: Iterable[Path]) -> None:
    """Delete files and directories that are there."""
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip(libraries: Iterable[Path]) -> None:
    """Take the symbols of debuggers out of libraries, where there is a program for that."""
    program = shutil.which("strip")
    if program is None:
        return
    for library in libraries:
        if library.is_file() and not library.is_symlink():
            # One that cannot be stripped stays as it is.
            subprocess.run(  # noqa: S603
                [program, "--strip-unneeded", library], check=False, capture_output=True
            )


def compile_packages(packages: Path, undocumented: frozenset[str] | None = frozenset()) -> None:
    """Keep byte code only, which starts faster and is all that is imported.

    What is `undocumented`, or everything where that is None, loses its docstrings and assertions.
    """
    for module in list(packages.rglob("*.py")):
        parts = module.relative_to(packages).parts
        if SCRIPTS in parts:
            continue
        optimize = 2 if undocumented is None or parts[0] in undocumented else 0
        compileall.compile_file(module, quiet=2, legacy=True, optimize=optimize)
        if module.with_suffix(".pyc").is_file():
            module.unlink()


def assemble(target: Path, prefix: Path) -> None:
    """Copy an environment, its interpreter and what both need into an empty directory."""
    for name in ("bin", "lib", "lib64", "sbin"):
        link = Path("/") / name
        if link.is_symlink():
            (target / "usr" / name).mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(f"usr/{name}")
    interpreter = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    for program in (interpreter, *PROGRAMS):
        place(target, program)
    strip([inside(target, interpreter)])
    place_links(target, prefix / "bin" / "python")
    shutil.copytree(library, inside(target, library), ignore=ignored, ignore_dangling_symlinks=True)
    strip(inside(target, library).rglob("*.so"))
    compile_packages(inside(target, library), None)
    shutil.copytree(prefix, inside(target, prefix), symlinks=True, dirs_exist_ok=True)
    extensions = [*inside(target, library).rglob("*.so"), *prefix.rglob("*.so*")]
    for found in needed([interpreter, *PROGRAMS, *extensions]):
        if not found.is_relative_to(prefix):
            place(target, found)
            strip([inside(target, found)])
    write_system(target)


def ignored(_directory: str, names: list[str]) -> set[str]:
    """Return what of the interpreter's library is not for programs."""
    unused = ("config-", *UNUSED_EXTENSIONS)
    return {name for name in names if name in UNUSED_LIBRARY or name.startswith(unused)}


def needed(programs: Iterable[Path]) -> set[Path]:
    """Return the shared libraries that programs and libraries load."""
    found: set[Path] = set()
    for program in programs:
        listed = subprocess.run(  # noqa: S603
            ["/usr/bin/ldd", program], check=False, capture_output=True, text=True
        ).stdout
        for line in listed.splitlines():
            words = line.split("=>")[-1].split()
            if words and words[0].startswith("/"):
                found.add(Path(words[0]))
    for name in LOADED_LATER:
        found.update(each.parent / name for each in list(found) if (each.parent / name).is_file())
    return found


def place(target: Path, path: Path) -> None:
    """Copy a file to where it is, below another root, under the name that it is asked for by."""
    copy = inside(target, path)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, copy)


def place_links(target: Path, link: Path) -> None:
    """Copy the links that an environment's interpreter is reached by; the last file is there."""
    while link.is_symlink():
        following = link.parent / link.readlink()
        if following.is_symlink() and not following.is_relative_to(link.parent):
            copy = inside(target, following)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(following.readlink())
        link = following


def inside(target: Path, path: Path) -> Path:
    """Return where a path is below another root; its directories are the real ones."""
    return target / (path.parent.resolve() / path.name).relative_to("/")


def write_system(target: Path) -> None:
    """Write users, names and certificates; make the directories that programs expect."""
    for name in ("etc/ssl/certs", "root", "run", "var/tmp", "var/lib/dtr", "tmp"):
        (target / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (target / name).chmod(0o1777)
    (target / "var/lib/dtr").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(target / "var/lib/dtr", USER, USER)
    for name, text in ETC.items():
        (target / "etc" / name).write_text(text)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    for path in (certificates, Path("/etc/ld.so.cache"), Path("/etc/os-release")):
        if path.is_file():
            place(target, path)
    for asked in {ssl.get_default_verify_paths().openssl_cafile, "/usr/lib/ssl/cert.pem"}:
        link = target / asked.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(certificates)


if __name__ == "__main__":
    main()
