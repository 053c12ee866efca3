"""Word classes of caption words by rules: no model, no download.

Captions are short, in the present tense and about people who do things; a word list and the neighbours of a word
decide most cases. What the rules do not know is a noun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from . import verb_lexicon as lexicon
from .verb_lexicon import verb_forms

Tag = Literal["NOUN", "PRON", "VERB", "AUX", "PARTICLE", "ADJ", "ADV", "DET", "PREP", "CONJ", "OTHER"]


def tag(tokens: Sequence[str]) -> list[Tag]:
    """Word class of every token.

    Args:
        tokens: words of one sentence in any casing; punctuation and empty tokens are OTHER.

    Returns:
        One class per token. Participles before a noun ("a marching band") are ADJ, the ``to`` of an infinitive
        and the adverbs that belong to a verb ("picks up") PARTICLE, subordinating words CONJ.
    """
    return _Tagger([token.lower() for token in tokens]).run()


def noun_heads(tokens: Sequence[str], tags: Sequence[Tag] | None = None) -> list[int]:
    """Index of the head noun of every noun phrase: the last of a run of nouns; a possessor is a phrase of its own.

    Args:
        tokens: words of one sentence.
        tags: their classes, from `tag` when None.
    """
    tags = tag(tokens) if tags is None else tags
    return [i for i, t in enumerate(tags) if t == "NOUN" and (i + 1 == len(tags) or tags[i + 1] != "NOUN")]


def pronouns(tokens: Sequence[str], tags: Sequence[Tag] | None = None) -> list[int]:
    """Index of every personal or possessive pronoun ("he", "her", "themselves").

    Args:
        tokens: words of one sentence.
        tags: their classes, from `tag` when None.
    """
    tags = tag(tokens) if tags is None else tags
    return [
        i
        for i, (token, t) in enumerate(zip(tokens, tags, strict=True))
        if (t == "PRON" and token.lower() not in lexicon.RELATIVES) or token.lower() in lexicon.POSSESSIVES
    ]


class _Tagger:
    """Tags one sentence from left to right; `words` are lower case."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.tags: list[Tag] = []
        self.finite = False  # the clause has its finite verb

    def run(self) -> list[Tag]:
        for i, word in enumerate(self.words):
            if word in lexicon.SUBORDINATORS or word in lexicon.SENTENCE_ENDS or word == ",":
                self.finite = False
            if word in lexicon.CONJUNCTIONS and self.word(i + 1) in lexicon.SUBJECT_PRONOUNS | {"it"}:
                self.finite = False
            self.tags.append(self._tag(i, word))
            if (self.tags[i] == "AUX" and word in lexicon.FINITE_AUXILIARIES) or (
                self.tags[i] == "VERB" and verb_forms(word).keys() & {"s", "past", "base"}
            ):
                self.finite = True
        self._find_verb()
        return self.tags

    def word(self, i: int) -> str:
        return self.words[i] if 0 <= i < len(self.words) else ""

    def _tag(self, i: int, word: str) -> Tag:
        if not any(letter.isalnum() for letter in word):
            return "CONJ" if word == "&" else "OTHER"
        if word[0].isdigit():
            return "DET"
        if word in {"'s", "s"}:
            return self._apostrophe_s(i)
        if word == "going" and self.word(i + 1) == "to" and "base" in verb_forms(self.word(i + 2)):
            return "AUX"
        if word in lexicon.AUXILIARIES and (found := self._auxiliary(i, word)):
            return found
        if word in {"each", "one"} and self.word(i + 1) in {"other", "another"}:
            return "PRON"
        if word in {"other", "another"} and self.word(i - 1) in {"each", "one"}:
            return "PRON"
        if word == "that":
            return self._that(i)
        if word in {"who", "whom", "which"} and not self._nominal(i + 1):
            return "PRON"
        if word in {"her", "his"}:
            return self._possessive(i, word)
        if word in lexicon.CONJUNCTIONS:
            return "CONJ"
        if word == "to":
            return "PARTICLE" if self._infinitive(i) else "PREP"
        if word in lexicon.PRONOUNS or word == "others":
            return "PRON"
        if word == "next" and self.word(i + 1) == "to":
            return "PREP"
        if word == "then":
            return "ADV"
        if word == "front" and self.word(i - 1) == "in" and self.word(i + 1) == "of":
            return "PREP"
        if word in lexicon.SUBORDINATORS and word not in {"than"}:
            return "DET" if word == "what" and self._nominal(i + 1) and not self._pronoun(i + 1) else "CONJ"
        if word in lexicon.DETERMINERS and not (word == "second" and self._previous(i) == "NOUN"):
            return self._determiner(i, word)
        return self._open_class(i, word)

    # Closed classes

    def _apostrophe_s(self, i: int) -> Tag:
        """Possessive (OTHER) or a short *is*/*has*."""
        following = self.word(i + 1)
        if i == 0 or following == "":
            return "OTHER"
        short = self.words[i] == "'s" and (
            "ing" in verb_forms(following) or following in {"a", "an", "the", "not", "been", "in", "on", "being"}
        )
        if self.tags[i - 1] == "PRON" or self.word(i - 1) in {"there", "here", "that", "what"}:
            return (
                "OTHER" if self._nominal(i + 1) and not short and following not in lexicon.DETERMINERS else "AUX"
            )
        return "AUX" if short else "OTHER"

    def _auxiliary(self, i: int, word: str) -> Tag | None:
        """AUX, VERB for *have* and *do* with an object, None for a noun such as "can"."""
        if self._expects_noun(i) and word in {"can", "will", "might", "must"}:
            return None
        if word not in lexicon.DO_HAVE:
            return "AUX"
        j = i + 1
        while self.word(j) in lexicon.ADVERBS - {"back", "left"} or lexicon.manner_adverb(self.word(j)):
            j += 1
        forms = verb_forms(self.word(j))
        if word in {"do", "does", "did"}:
            return "AUX" if "base" in forms and (j > i + 1 or not lexicon.noun_first(self.word(j))) else "VERB"
        if self.word(j) == "been" or ("part" in forms and not self._nominal(j + 1)):
            return "AUX"
        if self.word(j) == "to" and "base" in verb_forms(self.word(j + 1)):
            return "AUX"
        return "AUX" if word.startswith("'") or "part" in forms else "VERB"

    def _that(self, i: int) -> Tag:
        """Relative pronoun after a noun, conjunction after a verb, else a determiner or pronoun."""
        if i and self.tags[i - 1] in {"NOUN", "PRON"}:
            return "PRON"
        if i and self.tags[i - 1] == "VERB":
            singular = self._nominal(i + 1) and not self._pronoun(i + 1) and not self.word(i + 1).endswith("s")
            return "DET" if singular and self.word(i + 1) not in lexicon.DETERMINERS else "CONJ"
        verb = lexicon.noun_first(self.word(i + 1)) and self.word(i + 2) in lexicon.PREPOSITIONS
        return "DET" if self._nominal(i + 1) and not verb else "PRON"

    def _possessive(self, i: int, word: str) -> Tag:
        following = self.word(i + 1)
        if "ing" in verb_forms(following) and following not in lexicon.ING_COMPOUNDS:
            return "PRON" if word == "her" else "DET"
        if following in {"under", "upper", "front", "back", "top", "right", "left", "own", "other"}:
            return "DET"
        noun = self._nominal(i + 1) and not self._pronoun(i + 1) and following not in lexicon.DETERMINERS
        forms = verb_forms(following).keys()
        if "s" in forms and not noun:  # "shows her braids", but "the flag behind her appears"
            return "DET" if self.finite or self._previous(i) == "VERB" else "PRON"
        noun = noun or (bool(forms & {"base", "part"}) and following not in lexicon.ADVERBS)
        return "DET" if noun else "PRON"

    def _determiner(self, i: int, word: str) -> Tag:
        if word not in lexicon.PRONOMINAL:
            return "DET"
        if i and self.tags[i - 1] == "DET" and word in {"one", "other"} and not self._nominal(i + 1):
            return "NOUN"
        following = verb_forms(self.word(i + 1))
        if "ing" in following and self.word(i + 1) not in lexicon.ING_COMPOUNDS:
            return "PRON"
        return "DET" if self._nominal(i + 1) or self.word(i + 1) == "of" else "PRON"

    def _infinitive(self, i: int) -> bool:
        j = i + 1
        while self.word(j) in lexicon.ADVERBS - {"back", "well"} or lexicon.manner_adverb(self.word(j)):
            j += 1
        forms = verb_forms(self.word(j))
        if "base" in forms:
            return self.word(j) not in {"back", "camp", "camera", "school"}
        if "s" in forms and self.word(j + 1) in lexicon.DETERMINERS:
            return True
        return self.word(j) in {"be", "have", "do"} or (
            bool(forms.keys() & {"s", "past"})
            and not lexicon.noun_first(self.word(j))
            and self._previous(i) == "VERB"
        )

    # Open classes

    def _open_class(self, i: int, word: str) -> Tag:
        if word == "close" and self.word(i - 1) == "up":
            return "ADV"
        if word in lexicon.PREPOSITIONS and (found := self._preposition(i, word)):
            return found
        forms = verb_forms(word)
        if word in lexicon.ADVERBS and not ("base" in forms and self._previous(i) in {"AUX", "PARTICLE"}):
            before = self._previous(i)
            if word not in lexicon.ADJECTIVES:
                intensifies = self.word(i + 1) in lexicon.ADJECTIVES or "part" in verb_forms(self.word(i + 1))
                if intensifies or not self._expects_noun(i):
                    return "ADV"
            if before in {"VERB", "NOUN", "PRON"} and not self._nominal(i + 1) and word not in forms:
                return "ADV" if word != "left" or before == "VERB" or self.finite else "VERB"
        if "ing" in forms and word not in lexicon.ADJECTIVES:
            return self._ing(i, word)
        if word in lexicon.ADJECTIVES:
            return self._adjective(i, word)
        if lexicon.manner_adverb(word):
            return "ADV"
        if forms:
            return self._verb_or_noun(i, word, set(forms))
        if word.endswith("s") and self.word(i - 1) in {"he", "she", "it", "who"} and not self.finite:
            return "VERB"
        return "NOUN"

    def _adjective(self, i: int, word: str) -> Tag:
        forms = verb_forms(word)
        following = self.word(i + 1)
        if "base" in forms and i and (self.tags[i - 1] == "PARTICLE" or self.word(i - 1) in lexicon.MODALS):
            return "VERB"
        if forms and "part" in forms and self._previous(i) == "AUX":
            return "VERB" if word not in {"tired", "excited", "bored", "scared", "injured"} else "ADJ"
        if self._nominal(i + 1) or following in lexicon.CONJUNCTIONS or following in lexicon.ADJECTIVES:
            return "ADJ"
        return "NOUN" if self._expects_noun(i) or self._previous(i) == "PREP" else "ADJ"

    def _preposition(self, i: int, word: str) -> Tag | None:
        """PREP before a noun phrase, PARTICLE or ADV elsewhere; None for a noun ("his back")."""
        if self._expects_noun(i) and word in {"back", "inside", "outside", "past", "down", "round", "like"}:
            return None
        if word == "like" and (self._previous(i) == "PRON" or self.word(i - 1) == "to"):
            return "VERB"
        before = self.tags[i - 1] if i else "OTHER"
        phrase = self._nominal(i + 1) or "ing" in verb_forms(self.word(i + 1))
        phrase = phrase or self.word(i + 1) in lexicon.PREPOSITIONS | {"to", "how", "what"}
        if word in lexicon.PARTICLES and before == "VERB" and (word not in lexicon.TWO_WAY or not phrase):
            return "PARTICLE"
        if word in {"together", "forward", "away", "back", "apart"}:
            return "PARTICLE" if before in {"NOUN", "PRON", "VERB"} else "ADV"
        if phrase and self.word(i + 1) not in {"to"}:
            return "PREP"
        if self.word(i + 1) == "to" and word in {"next", "close", "up", "out", "on", "over", "down", "off"}:
            return "PARTICLE" if word in lexicon.PARTICLES else "PREP"
        return (
            "PARTICLE"
            if word in lexicon.PARTICLES and before in {"NOUN", "PRON", "PARTICLE", "ADV"}
            else ("PREP" if word in {"of", "at", "for", "with", "from", "into", "onto"} else "ADV")
        )

    def _ing(self, i: int, word: str) -> Tag:
        following = self.word(i + 1)
        before = self.tags[i - 1] if i else "OTHER"
        if word in lexicon.ING_NOUNS:
            return "VERB" if self._previous(i) == "AUX" else "NOUN"
        inside = before in {"DET", "ADJ", "NOUN", "PREP"} or (before != "AUX" and word not in lexicon.ACTIVE_ING)
        if following in lexicon.ING_COMPOUNDS.get(word, ()) and inside:
            return "ADJ"
        if before in {"DET", "ADJ"} or self._after_possessive(i):
            if following in lexicon.DETERMINERS or following in lexicon.PRONOUNS:
                return "VERB"
            return "ADJ" if self._nominal(i + 1) else "NOUN"
        return "VERB"

    def _verb_or_noun(self, i: int, word: str, forms: set[str]) -> Tag:
        """A word that may be a finite verb, an infinitive or a past participle."""
        before = self._previous(i)
        noun_first = lexicon.noun_first(word)
        participle = "part" in forms and "base" not in forms
        if self._expects_noun(i):
            if "part" in forms and self._nominal(i + 1):
                return "ADJ"
            return "NOUN"
        if before == "AUX":
            return "VERB" if "part" in forms or self._base_after_aux(i, forms) else "NOUN"
        if before == "PARTICLE" and self._before(i) == "to":
            return "VERB"
        if before == "PREP":
            return "ADJ" if participle and self._nominal(i + 1) else "NOUN"
        if before == "PRON":
            subject = self._before(i) in lexicon.SUBJECT_PRONOUNS | {"it", "that", "which", "you", "others", "one"}
            return "VERB" if subject or not noun_first else "NOUN"
        if before == "NOUN":
            return self._after_noun(i, word, forms)
        if before == "VERB":
            if "s" in forms and self._ends_relative(i):
                return "VERB"
            if self._after_bare(i) and "base" in forms and not noun_first:
                return "VERB"
            if participle:
                return "ADJ" if self._nominal(i + 1) and self.word(i + 1) not in lexicon.DETERMINERS else "VERB"
            return "NOUN"
        return self._opening(i, word, forms)

    def _after_noun(self, i: int, word: str, forms: set[str]) -> Tag:
        noun_first = lexicon.noun_first(word)
        plural = self._plural(i)
        if not noun_first and forms & {"past", "part"} and "base" not in forms:
            return "VERB"
        if "s" in forms and not noun_first:
            compound = self.finite and lexicon.noun_first(self.words[i - 1]) and not self._fresh_subject(i)
            return "NOUN" if compound else "VERB"  # "performs dance moves"
        actors = self.words[i - 1] in lexicon.ANIMATE
        if "base" in forms and self._fresh_subject(i) and ((plural and actors) or not noun_first):
            return "VERB"
        if (
            "base" in forms
            and actors
            and not self.finite
            and not self._finite_ahead(i)
            and not self._nominal(i + 1)
        ):
            return "VERB"  # "a man run and jump"
        if "base" in forms and not self.finite and "ing" in verb_forms(self.word(i + 1)):
            return "VERB"
        bare = (actors or not noun_first) and self._after_bare(i)
        if "base" in forms and (bare or (plural and not self.finite and not noun_first)):
            return "VERB" if not noun_first or not self._nominal(i + 1) or self._phrase_starts(i + 1) else "NOUN"
        fresh = self._fresh_subject(i) and self.words[i - 1] != "and"
        if self.finite and fresh and "s" in forms and not plural:
            return "VERB"
        if self.finite or self._finite_ahead(i):
            return "NOUN"
        agrees = ("s" in forms and not plural) or ("base" in forms and plural) or "past" in forms
        if agrees or not noun_first:
            return "VERB" if self._phrase_starts(i + 1) or not self._nominal(i + 1) or plural else "NOUN"
        return "VERB" if self.word(i + 1) in lexicon.DETERMINERS else "NOUN"

    def _opening(self, i: int, word: str, forms: set[str]) -> Tag:
        """After a conjunction, a comma, an adverb, a particle or at the start."""
        noun_first = lexicon.noun_first(word)
        following = self.word(i + 1)
        object_ahead = following in lexicon.DETERMINERS or following in lexicon.PRONOUNS or following == "to"
        earlier = [verb_forms(w).keys() for w, t in zip(self.words, self.tags, strict=False) if t == "VERB"]
        if i == 0 or not earlier:
            if "past" in forms or ("s" in forms and not noun_first):
                return "VERB"
            if i and self._previous(i) == "CONJ" and self.tags[i - 1] == "CONJ" and not self.finite:
                return "VERB" if object_ahead else "NOUN"
            return "VERB" if object_ahead or (following in lexicon.PREPOSITIONS and not noun_first) else "NOUN"
        if not noun_first:
            return "VERB"
        same = any(forms & kind for kind in earlier)
        joined = [t for w, t in zip(self.words[:i], self.tags, strict=True) if w not in {",", "and", "then"}]
        if same and joined[-1] in {"VERB", "PARTICLE"}:  # "jumps and waves"
            return "VERB"
        moves = following in lexicon.PARTICLES | {"at", "to", "into", "onto", "with"}
        return "VERB" if same and (object_ahead or moves or following == "") and not self._listing(i) else "NOUN"

    # What stands around a word

    def _previous(self, i: int) -> Tag:
        """Class of what precedes, adverbs skipped; OTHER at a comma or the start."""
        for j in range(i - 1, -1, -1):
            if self.words[j] == "then" and j and self.tags[j - 1] in {"VERB", "ADV", "PARTICLE"}:
                return "OTHER"
            if self.tags[j] != "ADV" and self.words[j] != "":
                return self.tags[j]
        return "OTHER"

    def _before(self, i: int) -> str:
        for j in range(i - 1, -1, -1):
            if self.tags[j] != "ADV":
                return self.words[j]
        return ""

    def _base_after_aux(self, i: int, forms: set[str]) -> bool:
        return bool(forms & {"base"}) and self._before(i) in lexicon.MODALS | {"not", "n't"}

    def _after_possessive(self, i: int) -> bool:
        return i > 0 and self.words[i - 1] in {"'s", "s", "'"} and self.tags[i - 1] == "OTHER"

    def _expects_noun(self, i: int) -> bool:
        if i == 0:
            return False
        i -= self.tags[i - 1] == "ADV" and i > 1 and self.tags[i - 2] == "DET"  # "a freshly cooked loaf"
        attributive = self.tags[i - 1] == "ADJ" and (i < 2 or self.tags[i - 2] != "AUX")
        return self.tags[i - 1] == "DET" or attributive or self._after_possessive(i)

    def _pronoun(self, i: int) -> bool:
        return self.word(i) in lexicon.PRONOUNS

    def _nominal(self, i: int) -> bool:
        """Whether a noun phrase may start or go on at this word, judged by the word alone."""
        word = self.word(i)
        if not word or not word[0].isalnum():
            return False
        if word in lexicon.DETERMINERS or word in lexicon.PRONOUNS:
            return word not in lexicon.RELATIVES
        closed = lexicon.AUXILIARIES | lexicon.CONJUNCTIONS | lexicon.SUBORDINATORS | {"to", "not"}
        if word in closed or (word in lexicon.PREPOSITIONS and word != "back"):
            return False
        if word in lexicon.ADJECTIVES or word in lexicon.ING_NOUNS or lexicon.noun_first(word):
            return True
        if word in lexicon.ADVERBS or lexicon.manner_adverb(word):
            return False
        forms = verb_forms(word)
        if "ing" in forms:
            return self.word(i + 1) in lexicon.ING_COMPOUNDS.get(word, ())
        if "part" in forms and "base" not in forms:
            return self.word(i + 1) not in lexicon.DETERMINERS and self._nominal(i + 1)
        return not forms

    def _phrase_starts(self, i: int) -> bool:
        word = self.word(i)
        return (
            word in lexicon.DETERMINERS or word in lexicon.PRONOUNS or word in lexicon.PREPOSITIONS or word == "to"
        )

    def _plural(self, i: int) -> bool:
        """Whether the noun phrase before `i` is plural: its noun, the head before "of", or two joined by "and"."""
        j = i - 1
        while j > 0 and self.tags[j] == "ADV":
            j -= 1
        word = self.words[j]
        if word in lexicon.PLURALS or (word.endswith("s") and not word.endswith("ss")):
            return True
        return "and" in self.words[max(0, j - 3) : j] and not self.finite

    def _after_bare(self, i: int) -> bool:
        """Whether a verb that takes a bare infinitive governs here: "helps the man lift"."""
        for j in range(i - 1, max(-1, i - 6), -1):
            if self.tags[j] == "VERB":
                return (
                    verb_forms(self.words[j]).get(_first(verb_forms(self.words[j])), "") in lexicon.BARE_INFINITIVE
                )
            if self.tags[j] in {"PREP", "CONJ", "OTHER"}:
                return False
        return False

    def _fresh_subject(self, i: int) -> bool:
        """Whether "and" opens the noun phrase before `i`: "and the camera pans"."""
        j = i - 1
        while j > 0 and self.tags[j] in {"NOUN", "ADJ", "ADV", "DET"} and self.words[j] != "then":
            j -= 1
        return j >= 0 and self.words[j] in {"and", "but", "then"}

    def _ends_relative(self, i: int) -> bool:
        """Whether the verb before `i` closes a relative clause: "the man who threw jumps"."""
        relatives = [j for j in range(max(0, i - 6), i - 1) if self.words[j] in lexicon.RELATIVES]
        return bool(relatives) and (relatives[-1] == i - 2 or "VERB" not in self.tags[relatives[-1] : i - 1])

    def _finite_ahead(self, i: int) -> bool:
        """Whether a word that can only be a finite verb comes before the clause ends."""
        for word in self.words[i + 1 :]:
            if word in lexicon.SUBORDINATORS or word in {",", "and", "who", "which", "that"}:
                return False
            if word in lexicon.FINITE_AUXILIARIES - {"can", "'s"}:
                return True
            forms = verb_forms(word)
            if forms and not lexicon.noun_first(word) and ("s" in forms or forms.keys() == {"past"}):
                return True
        return False

    def _listing(self, i: int) -> bool:
        """Whether a coordinated noun stands right before "and": "arms and legs", with a noun-like word after."""
        return self.words[i - 1] == "and" and i > 1 and self.tags[i - 2] == "NOUN" and self.word(i + 1) == ""

    def _find_verb(self) -> None:
        """A sentence that starts without any verb: the first noun after a noun that could be one becomes it."""
        for i, (word, here) in enumerate(zip(self.words, self.tags, strict=True)):
            if here in {"VERB", "AUX", "CONJ"}:
                return
            if here != "NOUN" or i == 0 or self.tags[i - 1] not in {"NOUN", "PRON"}:
                continue
            phrase = self._phrase_starts(i + 1) or i + 1 == len(self.words)
            known = verb_forms(word).keys() & {"s", "base", "past"} and (phrase or not lexicon.noun_first(word))
            ends_in_s = (
                len(word) > 4 and word[-1] == "s" and word[-2] not in "isu" and self.words[i - 1][-1:] != "s"
            )
            if known or (ends_in_s and (phrase or self._nominal(i + 1)) and i + 1 < len(self.words)):
                self.tags[i] = "VERB"
                return


def _first(forms: dict[str, str]) -> str:
    return next(iter(forms), "")
