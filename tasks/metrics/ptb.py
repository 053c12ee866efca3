"""Penn Treebank tokens of captions, as caption metrics count them: lower case, without punctuation.

Two ways to the same tokens. `ptb_tokens` asks the Stanford tokenizer that pycocoevalcap carries (needs Java)
and is what papers use. `simple_tokens` is Python alone; of 271,957 captions of ActivityNet Captions and MSR-VTT it
cuts all but 5 the same.

Odd but part of every published number: brackets become words (``-lrb-``) and stay, "cannot" is two words, a full
stop inside a word or after an abbreviation belongs to the word, repeated "!!" stays.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

REMOVED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that pycocoevalcap drops. It names brackets in upper case after lower-casing, so brackets stay."""

NO_JAVA = "Java is not installed (no `java` on the PATH); install a Java runtime, for example OpenJDK 17"


class JavaError(RuntimeError):
    """A Java program is missing, failed, or ran past its time; the message is a reason for people."""


def java() -> str:
    """Path of the Java runtime.

    Raises:
        JavaError: there is none.
    """
    path = shutil.which("java")
    if path is None:
        raise JavaError(NO_JAVA)
    return path


def carried(*parts: str) -> Path:
    """A file inside pycocoevalcap.

    Raises:
        JavaError: it is not there.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        if (path := Path(folder, *parts)).exists():
            return path
    raise JavaError(
        f"pycocoevalcap lacks {'/'.join(parts)}; reinstall it: pip install --force-reinstall pycocoevalcap"
    )


def run_java(arguments: Sequence[str], timeout_s: float, text: str = "", folder: Path | None = None) -> str:
    """What a Java program prints to its standard output.

    Raises:
        JavaError: no Java, an exit status other than 0, or more than `timeout_s` seconds.
    """
    command = [java(), "-Dfile.encoding=UTF-8", *arguments]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=timeout_s, cwd=folder)
    except subprocess.TimeoutExpired as error:  # the process has been killed
        raise JavaError(f"Java did not finish within {timeout_s:g} s") from error
    except OSError as error:
        raise JavaError(f"Java did not start: {error}") from error
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip())[
            -300:
        ]
        raise JavaError(f"Java ended with exit status {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # and half characters


def one_line(text: str | None) -> str:
    """The text without line breaks and other control characters, which line-based programs would trip over."""
    return _CONTROL.sub(" ", text or "")


def ptb_tokens(texts: Iterable[str | None], timeout_s: float = 600) -> list[str]:
    """Tokens of the Stanford tokenizer, separated by blanks, one string per text.

    A line with a word separates the texts, so that no text changes how the one before it is cut ("a capital T."
    before "The" loses its full stop).

    Raises:
        JavaError: no Java, or the tokenizer failed or took longer than `timeout_s`.
    """
    lines = [one_line(text) for text in texts]
    program = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
    jar = str(carried("tokenizer", "stanford-corenlp-3.4.1.jar"))
    printed = run_java(("-cp", jar, *program), timeout_s, "".join(f"{line}\nx\n" for line in lines)).split("\n")
    if len(printed) != 2 * len(lines) + 1:
        raise JavaError(f"the tokenizer answered {len(printed) // 2} lines for {len(lines)} texts")
    return [_kept(line.rstrip().split(" ")) for line in printed[0:-1:2]]


def _kept(tokens: Iterable[str]) -> str:
    return " ".join(token for token in tokens if token not in REMOVED)


_LETTER = r"[^\W\d_]"
_WORD = r"[^\W_²³¹₀-₉]"
_ABBREVIATIONS = (
    r"adm|al|alex|apr|ave|blvd|bros|capt|cmdr|co|col|colo|corp|cpl|dec|dept|dr|drs|est|etc|ext|feb|ft|gen|gov"
    r"|hon|inc|jan|jr|jun|lt|ltd|maj|mar|md|messrs|mo|mr|mrs|ms|mt|nov|oct|penn|ph\.d|pres|prof|pvt|rep|reps"
    r"|rev|rt|sen|sept|sgt|sq|sr|st|tel|tenn|vs|wed"
)
_NAMES = r"Ariz|Ark|Az|Calif|Conn|Del|Fla|Ga|Ill|Ind|La|Mass|Mich|Minn|Miss|Mon|Okla|Ore|Pa|Tex|Tue|Tues|Va|Wash"
_STARTS = (
    r"A|About|According|After|An|As|At|But|He|Her|Here|How|However|If|In|It|Its|Last|Many|More|Now|Once|One"
    r"|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
)
_TOKEN = re.compile(
    rf"""
      https?://[^\s<>"()]*[^\s<>"().,;:!?'] | www\.[^\s<>"()]*[^\s<>"().,;:!?']        # addresses
    | [\w.+-]{{1,64}}@\w[\w-]*(?:\.\w+)*
    | </?[A-Za-z!][^<>]*>
    | \(\d{{3}}\)[ ]?\d{{3}}-\d{{4}} | \d{{3}}[ ]\d{{3}}[ -]\d{{4}}                      # telephone numbers
    | \d+[ ]\d+/\d+ (?!{_WORD})
    | [:;=][-o*']?[()\[\]DPp\\{{@|] (?!{_WORD})                                           # smileys
    | (?:US|HK|C|A)\$ (?=[\d.])
    | \d+(?:[.,]\d+)+(?:-{_WORD}+)+ | (?:(?<!{_WORD})[-+])?\d*(?:[.,:]\d+)+ | (?<!{_WORD})[-+]\d+(?!{_WORD})
    | (?:{_LETTER}\.){{2,}}{_LETTER}?(?!{_WORD})                                         # U.S., p.m.
    | {_LETTER}\.(?!{_LETTER}|[ ](?:{_STARTS})\b)                                        # initials
    | (?:(?i:{_ABBREVIATIONS})|{_NAMES})\.(?!{_LETTER})
    | [Nn]o\.(?=[ ]?\d)
    | (?i:n't{_LETTER}* | '(?:s|m|d|re|ve|ll)(?!{_WORD}))
    | '(?:\d\ds?|(?i:til|cause|em|n'?|twas|tis))(?!{_WORD})
    | [#@]{_LETTER}(?:{_WORD}|_)*
    | (?i:[dlno]'(?!(?:s|t|m|d|re|ve|ll)\b){_WORD}+ | ma'am | hallowe'en | ne'er)
    | [A-Z]+&[A-Z]+
    | (?:{_WORD}+(?=(?i:n't)) | {_WORD}(?:{_WORD}|[\u0300-\u036f])*)
      (?:(?:[-_/] | (?<={_LETTER})[.!?](?={_LETTER})){_WORD}+)*
    | -{{2,3}} | '' | `` | \.\.\. | _+ | \*+ | [?!]+ | \S
    """,
    re.VERBOSE,
)
_SPLIT = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
    "'tis": "'t is",
    "'twas": "'t was",
}
_SIGNS = str.maketrans(
    dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys('"\u201c\u201d\u00ab\u00bb', " '' ")
    | dict.fromkeys("\u2013\u2014\u2015", "--")
    | dict.fromkeys("\u200b\u200c\u200d\u2010\u2012\ufeff\ufffd", " ")  # the Stanford tokenizer drops these
    | {"\u2026": " ... ", "\u00ad": "", "£": " # ", "€": " $ ", "¢": " cents "}
    | {"½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 "}
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'"}
_BRACKETS = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", " ": "\u00a0"}
)


def simple_tokens(text: str | None) -> str:
    """Tokens like those of `ptb_tokens`, separated by blanks, in Python alone.

    Differences that are known: emoji and other rare signs, apostrophes and full stops inside misspelt words, and
    some abbreviations.
    """
    text = one_line(text).translate(_SIGNS)
    if "&" in text:
        for name, sign in _ENTITIES.items():
            text = text.replace(name, f" {sign} ")
    tokens = (token.lower().translate(_BRACKETS) for token in _TOKEN.findall(" ".join(text.split())))
    return " ".join(_SPLIT.get(token, token) for token in tokens if token not in REMOVED)
