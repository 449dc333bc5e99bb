"""Compares a wheel and an sdist with the checkout, byte for byte.

Takes the paths of the two.
"""

import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

# Where the checkout's folders go in the wheel; nothing else goes there.
PACKAGES = {"keras_si": "keras_si", "cli": "keras_si_cli"}
# What nobody may forget to commit, either.
NEEDED = {
    "keras_si/py.typed",
    "keras_si_cli/py.typed",
    "keras_si_cli/results/page.css",
    "keras_si_cli/results/page.html.j2",
    "keras_si_cli/datasets/README.md",  # the attribution of MNIST
    "keras_si_cli/datasets/mnist/3.0.1/mnist-train.tfrecord-00000-of-00001",
    "keras_si_cli/datasets/mnist/3.0.1/mnist-test.tfrecord-00000-of-00001",
}
METADATA = {
    "METADATA",
    "RECORD",
    "WHEEL",
    "entry_points.txt",
    "licenses/LICENSE",
    "top_level.txt",
}
# Links and figures of Markdown that need the checkout.
RELATIVE = re.compile(r"\]\((?!https?:)[^)]*\)")
MADE_FOR_SDIST = {
    "PKG-INFO",
    "setup.cfg",
    *(
        f"keras_si.egg-info/{name}"
        for name in (
            "PKG-INFO",
            "SOURCES.txt",
            "dependency_links.txt",
            "entry_points.txt",
            "requires.txt",
            "top_level.txt",
        )
    ),
}


def of_checkout():
    """Returns the content of each file that git has, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    paths = map(pathlib.Path, listed.stdout.split("\0")[:-1])
    return {str(path): path.read_bytes() for path in paths if path.exists()}


def of_wheel(path):
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def of_sdist(path):
    """Without the folder that all are in."""
    with tarfile.open(path) as sdist:
        return {
            member.name.partition("/")[2]: sdist.extractfile(member).read()
            for member in sdist
            if member.isfile()
        }


def compare(what, found, expected):
    """Ends the program if two dicts of names and contents differ."""
    for problem, names in (
        ("lacks", set(expected) - set(found)),
        ("should not hold", set(found) - set(expected)),
        (
            "holds another version of",
            {n for n in {*found} & {*expected} if found[n] != expected[n]},
        ),
    ):
        if names:
            sys.exit(f"{what} {problem}: {', '.join(sorted(names))}")
    print(f"{what}: {len(found)} files, as in the checkout")


def main(wheel_path, sdist_path):
    checkout = of_checkout()
    expected = {}
    for name, content in checkout.items():
        top, _, rest = name.partition("/")
        if top in PACKAGES:
            expected[f"{PACKAGES[top]}/{rest}"] = content
    missing = NEEDED - set(expected)
    if missing:
        sys.exit(f"the checkout lacks {', '.join(sorted(missing))}")
    files, metadata = {}, {}
    for name, content in of_wheel(wheel_path).items():
        top, _, rest = name.partition("/")
        (metadata if top.endswith(".dist-info") else files)[name] = content
        if top.endswith(".dist-info") and rest not in METADATA:
            sys.exit(f"the wheel should not hold {name}")
        if rest == "METADATA":
            leads_nowhere = RELATIVE.findall(content.decode())
            if leads_nowhere:
                sys.exit(f"on an index, these are broken: {leads_nowhere}")
    if {name.partition("/")[2] for name in metadata} != METADATA:
        sys.exit(f"the wheel's metadata lacks something: {sorted(metadata)}")
    compare("the wheel", files, expected)
    found = of_sdist(sdist_path)
    for name in MADE_FOR_SDIST:
        found.pop(name, None)
    compare("the sdist", found, checkout)


if __name__ == "__main__":
    main(*sys.argv[1:])
