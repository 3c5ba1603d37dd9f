"""Stemmed words for BM25: the same for passages and questions, whatever Milvus' analyzers know.

Milvus Lite has no English analyzer, servers have several that differ; stemming here gives the same
ranking everywhere (Cranfield nDCG@10 .350 without, .379 with). Languages by their script and a few
telling words; a text of no known language is kept word by word, and CJK by pairs of characters.

What Milvus' standard analyzer would cut once more is cut here, before the stemmer sees it: it makes
`boundary`, `layer` of `boundary-layer`. Left whole beside its parts it would count them twice.
"""

import re
import threading
from functools import lru_cache

import Stemmer

_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+")
_STOP = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into"),
        *("is", "it", "its", "no", "not", "of", "on", "or", "such", "that", "the", "their"),
        *("then", "there", "these", "they", "this", "to", "was", "will", "with"),
    )
)
_TELLING = {
    "german": frozenset(("der", "die", "das", "und", "ist", "nicht", "ein", "eine", "mit", "für")),
    "french": frozenset(("le", "la", "les", "et", "est", "une", "des", "dans", "pour", "qui")),
    "spanish": frozenset(("el", "los", "las", "es", "una", "que", "para", "por", "con", "del")),
    "italian": frozenset(("il", "gli", "di", "che", "è", "una", "per", "con", "della", "sono")),
    "portuguese": frozenset(("os", "uma", "não", "para", "com", "que", "dos", "da", "em", "são")),
    "dutch": frozenset(("het", "een", "van", "niet", "met", "voor", "zijn", "dat", "op", "te")),
}
_ANY_TELLING = frozenset().union(*_TELLING.values())
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_LOOKED_AT = 400
_lock = threading.Lock()


def stems(text: str) -> list[str]:
    """Return the stemmed words of `text` in order, without English function words."""
    words = _words(text)
    with _lock:  # a Stemmer keeps a cache that threads must not share at once
        stemmer = _stemmer(language_of(words))
        found: list[str] = stemmer.stemWords([word for word in words if word not in _STOP])
        return found


def matched(text: str, question: str) -> list[str]:
    """Return the words of `text` whose stem is also in `question`, as written, once each."""
    wanted = set(stems(question))
    found: dict[str, None] = {}
    words = [match[0] for match in _WORD.finditer(text)]
    with _lock:
        stemmer = _stemmer(language_of([word.lower() for word in words]))
        for word in words:
            if word.lower() not in _STOP and stemmer.stemWord(word.lower()) in wanted:
                found.setdefault(word)
    return list(found)[:40]


def language_of(words: list[str]) -> str:
    """Return the stemmer's language for lower-case `words`; English when none is telling."""
    sample = words[:_LOOKED_AT]
    if _CYRILLIC.search(" ".join(sample)):
        cyrillic = sum(bool(_CYRILLIC.search(word)) for word in sample)
        if cyrillic * 2 > len(sample):
            return "russian"
    told = [word for word in sample if word in _ANY_TELLING]
    counts = {name: sum(word in telling for word in told) for name, telling in _TELLING.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] * 8 > len(sample) and counts[best] > 2 else "english"


def _words(text: str) -> list[str]:
    found: list[str] = []
    words: list[str] = _WORD.findall(text.lower())
    has_cjk = _CJK.search(text) is not None
    for word in words:
        if has_cjk and (run := _CJK.search(word)):
            chars = run[0]
            found += [chars[at : at + 2] for at in range(max(1, len(chars) - 1))]
            continue
        found.append(word)
    return found


@lru_cache(maxsize=16)
def _stemmer(language: str) -> Stemmer.Stemmer:
    return Stemmer.Stemmer(language)
