"""Clauses of a caption by rules: noun phrases, verb groups, and which phrases are a verb's subject and objects.

A shallow parser for sentences of the kind captions are made of; `verb_links` says what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from . import verb_lexicon as lexicon
from .grammar import Tag, tag
from .verb_lexicon import verb_forms

Kind = Literal["phrase", "verb", "preposition", "join", "sub", "relative"]
Form = Literal["finite", "base", "ing", "part", "to"]


@dataclass(eq=False)
class Node:
    """A noun phrase, a verb group, or a word between them; tokens ``start`` to ``end``, `end` excluded."""

    kind: Kind
    start: int
    end: int
    word: str = ""  # of a phrase, the head; of a verb, its base
    form: Form = "finite"
    soft: bool = False  # "finite" may also be a participle: "dressed"
    passive: bool = False
    governed: bool = False  # a phrase that follows a preposition
    animate: bool = False
    subject: list[Node] = field(default_factory=list)
    objects: list[Node] = field(default_factory=list)

    @property
    def lexical(self) -> bool:
        """Whether it is a verb that carries an action."""
        return self.kind == "verb" and self.word != ""


def verb_groups(tokens: Sequence[str]) -> list[Node]:
    """Verbs of a sentence with their subjects and objects.

    Args:
        tokens: words of one sentence, any casing.

    Returns:
        One node per verb that carries an action, in order: no auxiliaries, no copulas, no "is seen" before the
        verb it introduces.
    """
    words = [token.lower() for token in tokens]
    nodes = _Chunker(words, tag(tokens)).run()
    _Attacher(words, nodes).run()
    return [node for node in nodes if node.lexical and not _mere_frame(node, nodes)]


def _mere_frame(node: Node, nodes: list[Node]) -> bool:
    """Whether the verb only introduces the next one: "is seen speaking"."""
    following = nodes.index(node) + 1
    return (
        node.passive
        and node.word in lexicon.PERCEPTION
        and following < len(nodes)
        and nodes[following].form in {"ing", "to"}
        and nodes[following].lexical
    )


def _same_form(left: Node, right: Node) -> bool:
    """Whether two coordinated verbs are alike; the second infinitive has no "to"."""
    return left.form == right.form or left.form == "to"


class _Chunker:
    """Cuts a tagged sentence into noun phrases, verb groups and what joins them."""

    def __init__(self, words: list[str], tags: list[Tag]) -> None:
        self.words, self.tags = words, tags

    def run(self) -> list[Node]:
        nodes: list[Node] = []
        i = 0
        while i < len(self.words):
            node = self._node(i)
            i = node.end if node else i + 1
            if node:
                node.governed = node.kind == "phrase" and bool(nodes) and nodes[-1].kind == "preposition"
                nodes.append(node)
        return nodes

    def _node(self, i: int) -> Node | None:
        word, here = self.words[i], self.tags[i]
        if here in {"AUX", "VERB"} or (word == "to" and here == "PARTICLE"):
            return self._verb(i)
        if word in lexicon.RELATIVES and here == "PRON":
            return Node("relative", i, i + 1, word)
        if here in {"DET", "ADJ", "NOUN", "PRON"}:
            end = self._phrase_end(i)
            return self._phrase(i, end) if end > i else None
        if here == "CONJ" or word == "then":
            well = word == "as" and self.words[i + 1 : i + 3] == ["well", "as"]
            if well:
                return Node("join", i, i + 3, "and")
            return Node("sub" if word in lexicon.SUBORDINATORS - {"then"} else "join", i, i + 1, word)
        if word == "like" and here == "PREP":  # "looks like he sings"; before a mere noun it stays a preposition
            return Node("sub", i, i + 1, word)
        if here == "PREP":
            return Node("preposition", i, i + 1, word)
        return Node("join", i, i + 1, word) if word in {",", ";", ".", ":", "!", "?"} else None

    def _verb(self, i: int) -> Node:
        """Auxiliaries and the verb they belong to; a copula has no word."""
        first, auxiliaries = i, []
        infinitive = self.words[i] == "to"
        i += infinitive
        while i < len(self.words) and self.tags[i] in {"AUX", "ADV"}:
            if self.tags[i] == "AUX":
                auxiliaries.append(self.words[i])
            elif not auxiliaries and not infinitive:
                break
            i += 1
        while i < len(self.words) and self.words[i] in {"to", ""} and "going" in auxiliaries:
            i += 1
        if i == len(self.words) or self.tags[i] != "VERB":
            form: Form = "to" if infinitive else "ing" if auxiliaries[:1] == ["being"] else "finite"
            return Node("verb", first, max(i, first + 1), "", form)
        forms = verb_forms(self.words[i])
        base = next(iter(forms.values()), self.words[i])
        node = Node("verb", first, i + 1, base)
        passive_aux = bool(auxiliaries) and auxiliaries[-1] in lexicon.BE
        node.passive = passive_aux and "part" in forms
        if infinitive:
            node.form = "to"
        elif auxiliaries and auxiliaries != ["being"]:
            node.form = "finite"
        elif auxiliaries or "ing" in forms:
            node.form = "ing"
        elif "part" in forms and "past" not in forms and "base" not in forms:
            node.form = "part"
        elif "base" in forms and "s" not in forms and "past" not in forms:
            node.form = "base"
        node.soft = not auxiliaries and node.form == "finite" and "part" in forms
        return node

    def _phrase_end(self, i: int) -> int:
        """End of the noun phrase at `i`; ``i`` itself if there is none."""
        if self.tags[i] == "PRON":
            pair = self.words[i : i + 2] in (["each", "other"], ["one", "another"])
            return i + 2 if pair else self._continued(i + 1)
        j = i
        while j < len(self.words) and self._modifier(j):
            j += 1
        start = j
        while j < len(self.words) and self.tags[j] == "NOUN":
            j += 1
        if j == start:
            return self._continued(j) if j > i and j < len(self.words) and self.words[j] == "of" else i
        return self._continued(j)

    def _modifier(self, j: int) -> bool:
        if self.tags[j] in {"DET", "ADJ"}:
            return True
        if j + 1 == len(self.words) or j == 0:
            return False
        if self.words[j] in {"and", ",", "under"}:  # "a red and white banner"
            return (self.tags[j - 1] in {"ADJ", "DET"} and self.tags[j + 1] == "ADJ") or (
                self.words[j] == "under" and self.tags[j - 1] == "DET"
            )
        return self.tags[j] == "ADV" and self.tags[j - 1] in {"DET", "ADJ"} and self.tags[j + 1] in {"ADJ", "NOUN"}

    def _continued(self, j: int) -> int:
        """Takes in possessors and ``of``-complements."""
        if j + 1 >= len(self.words):
            return j
        possessive = self.words[j] in {"'s", "s", "'"} and self.tags[j] == "OTHER"
        if not possessive and self.words[j] != "of":
            return j
        end = self._phrase_end(j + 1)
        return max(end, j) if end > j + 1 else j

    def _phrase(self, start: int, end: int) -> Node:
        inner = range(start, end)
        nouns = [i for i in inner if self.tags[i] in {"NOUN", "PRON"}]
        head = next((i for i in nouns if i + 1 == end or self.tags[i + 1] != "NOUN"), end - 1)
        heads = [i for i in nouns if i + 1 == end or self.words[i + 1] == "of" or self.tags[i + 1] == "PRON"]
        animate = any(self.words[i] in lexicon.ANIMATE for i in [*heads, end - 1])
        return Node("phrase", start, end, self.words[head], animate=animate)


@dataclass
class _Clause:
    """What a clause has so far."""

    subject: list[Node]
    finite: Literal["no", "soft", "yes"] = "no"
    extra: list[Node] = field(default_factory=list)  # fronted phrases and gaps: objects of its first verb


class _Attacher:
    """Gives every verb node its subject and object phrases, from left to right."""

    def __init__(self, words: list[str], nodes: list[Node]) -> None:
        self.words, self.nodes = words, nodes
        self.clause = _Clause([])
        self.outer: _Clause | None = None  # the clause around a relative one, while it lacks its verb
        self.verb: Node | None = None  # the verb that takes the objects
        self.last: Node | None = None  # the last verb at all
        self.by_form: dict[str, list[Node]] = {}
        self.waiting: list[Node] = []  # verbs before any subject: "using a stick, the man hits the ball"

    def run(self) -> None:
        for i, node in enumerate(self.nodes):
            if node.kind == "phrase":
                self._phrase(i, node)
            elif node.kind == "verb":
                self._verb(i, node)
            elif node.kind == "relative":
                self._relative(i)
            elif node.kind == "join" and node.word in {".", ";", "!", "?"}:
                self.verb, self.clause, self.outer = None, _Clause(self.clause.subject, "yes"), None
        self._share_objects()

    def kind(self, i: int) -> str:
        return self.nodes[i].kind if 0 <= i < len(self.nodes) else ""

    # Noun phrases

    def _phrase(self, i: int, node: Node) -> None:
        opens = not node.governed and self._opens(i)
        node.governed = node.governed or (self.kind(i - 1) == "sub" and not opens)  # "after the game"
        if opens:
            gap = self._gap(i)
            self.clause = _Clause([node], extra=gap)
            self.verb = None
        elif self.verb is not None:
            self.verb.objects.append(node)
        elif node.governed:
            if not self.clause.subject:
                self.clause.extra.append(node)
        elif self.clause.finite == "no":
            self.clause.subject.append(node)

    def _gap(self, i: int) -> list[Node]:
        """The antecedent that "the stick he holds" leaves to its verb as an object."""
        before = i - 2 if self.kind(i - 1) == "relative" else i - 1
        if before < 0 or self.kind(before) != "phrase":
            return []
        if self.clause.finite == "no":
            self.outer = self.clause
        return [self.nodes[before]]

    def _opens(self, i: int) -> bool:
        """Whether the phrase is the subject of a clause of its own."""
        before = self.nodes[i - 1] if i else None
        starts = before is not None and before.kind in {"join", "sub", "relative"}
        following = self._following_verb(i)
        if following is None:
            return False
        if before is not None and before.kind == "sub":
            return True
        if before is not None and before.kind == "relative":
            return True
        if self.verb is None and self.clause.finite == "no":
            # "a man and a woman dance", "the stick he holds"
            return bool(before and before.kind == "phrase" and self.clause.subject and following.form == "finite")
        if starts:
            clause = following.form in {"finite", "base"} or (
                before is not None and before.word in {"and", "then"}
            )
            return clause and following.form != "part"
        if before is not None and before.kind == "phrase":
            apart = self.nodes[i + 1] is not following
            return following.form in {"finite", "base"} and not (following.soft or apart or self._awaits_main())
        if before is not None and before.kind == "verb" and following.form == "finite" and not following.soft:
            return before.word in lexicon.PERCEPTION | {"say", "think", "explain", "tell"}
        return False

    def _awaits_main(self) -> bool:
        return self.clause.finite == "no" or (self.outer is not None and self.outer.finite == "no")

    def _following_verb(self, i: int) -> Node | None:
        """The verb that comes next if nothing but phrases and their prepositions, or a list, lies before it."""
        j = i + 1
        while j < len(self.nodes):
            if (self.kind(j) == "preposition" and self.kind(j + 1) == "phrase") or (
                self.kind(j) == "join" and self.kind(j + 1) == "phrase" and self.nodes[j].word in {"and", "or"}
            ):
                j += 2
            elif self.kind(j) == "relative":
                return next((n for n in self.nodes[j + 1 :] if n.kind == "verb"), None)
            else:
                return self.nodes[j] if self.kind(j) == "verb" and self.nodes[j].form != "to" else None
        return None

    # Verbs

    def _verb(self, i: int, node: Node) -> None:
        before = self.nodes[i - 1] if i else None
        bare = self.verb is not None and self.verb.word in lexicon.BARE_INFINITIVE
        opens = before is not None and before.kind in {"phrase", "relative"} and not bare
        if node.form == "base" and opens and self.clause.finite == "no":  # "people who dance sing"
            node.form = "finite"
        node.subject = self._subject(i, node, before)
        finite = node.form == "finite" or (node.form == "base" and before is not None and before.kind == "phrase")
        first = finite and self.clause.finite != "yes"
        if finite:
            self.clause.finite = "soft" if node.soft and self.clause.finite == "no" else "yes"
        if first or (self.clause.extra and self.verb is None):
            node.objects.extend(self.clause.extra)
            self.clause.extra = []
        if not node.subject and self.last is None and node.form in {"ing", "to", "part"}:
            self.waiting.append(node)
        elif node.subject and self.waiting and finite:
            for early in self.waiting:
                early.subject = node.subject
            self.waiting = []
        self.by_form[node.form] = node.subject
        if node.form == "finite" and verb_forms(self.words[node.end - 1]).keys() & {"ing"}:
            self.by_form["ing"] = node.subject
        self.verb = self.last = node

    def _subject(self, i: int, node: Node, before: Node | None) -> list[Node]:
        shared = self.last.subject if self.last is not None else []
        if node.form == "finite":
            return self._finite_subject(i, node, before)
        if before is None:
            return []
        if node.form == "to":
            controlled = (
                self.last is not None and self.last.word in lexicon.OBJECT_CONTROL and not self.last.passive
            )
            direct = [o for o in self.last.objects if not o.governed] if controlled and self.last else []
            return direct[:1] or shared or self.clause.subject
        if before.kind == "verb":
            return shared
        if before.kind == "join":
            if self.verb is None and self.clause.finite == "no":
                return shared or self.clause.subject
            coordinated = before.word != "," and node.form in self.by_form
            return self.by_form[node.form] if coordinated else shared
        if before.kind == "phrase":
            return self._described(i, node)
        return shared or self.clause.subject

    def _finite_subject(self, i: int, node: Node, before: Node | None) -> list[Node]:
        adjacent = before is not None and before.kind in {"phrase", "verb", "preposition"}
        if self.clause.finite == "no" and (self.clause.subject or not self.last):
            return self.clause.subject
        if adjacent and self.outer is not None and not node.soft:  # after a relative clause
            self.clause, self.outer = self.outer, None
            return self.clause.subject
        if adjacent and self.clause.finite == "soft" and not node.soft:
            return self.clause.subject
        if before is not None and before.kind == "phrase" and node.soft:
            return self._described(i, node)
        if node.soft and self.last is not None:
            return self.last.subject
        return self.by_form.get("finite", self.clause.subject)

    def _described(self, i: int, node: Node) -> list[Node]:
        """Subject of a participle or bare infinitive after a noun phrase: the nearest actor, else the clause's."""
        nearest = self.nodes[i - 1]
        if self.verb is None:
            return self.clause.subject or [nearest]
        phrases = [o for o in self.verb.objects if o.kind == "phrase"]
        if node.form in {"part", "finite"} or (node.form == "ing" and node.word in lexicon.STATIVE):
            return [nearest]
        actor = next((p for p in reversed(phrases) if p.animate), None)
        introduces = not self.verb.word or self.verb.word in lexicon.PERCEPTION | lexicon.BARE_INFINITIVE
        copula = not self.verb.word and bool(self.verb.subject)  # else "there is": what follows is new
        if node.form == "base" or (introduces and not self.verb.passive and not copula):
            joined = self._joined(actor or phrases[0]) if phrases else []
            return joined or self.verb.subject
        if actor and not any(p.animate for p in self.verb.subject):  # "an intro leads into a man in a car waving"
            return [actor]
        pronoun = nearest.word in lexicon.PRONOUNS and not (
            nearest.governed and self.verb.word in lexicon.SCENE_CHANGE
        )
        if (nearest.animate and not pronoun) or self._preposition_before(nearest) == "with":
            return [nearest]
        return self.verb.subject

    def _joined(self, phrase: Node) -> list[Node]:
        """A phrase with those that "and" joins to it on its left."""
        i = self.nodes.index(phrase)
        if self.kind(i - 1) == "join" and self.nodes[i - 1].word == "and" and self.kind(i - 2) == "phrase":
            return [*self._joined(self.nodes[i - 2]), phrase]
        return [phrase]

    def _preposition_before(self, phrase: Node) -> str:
        i = self.nodes.index(phrase)
        return self.nodes[i - 1].word if self.kind(i - 1) == "preposition" else ""

    def _relative(self, i: int) -> None:
        """Opens a relative clause on the noun phrase before it, the nearest actor for "who"."""
        phrases = [n for n in self.nodes[:i] if n.kind == "phrase"]
        if not phrases:
            return
        antecedent = phrases[-1]
        if self.nodes[i].word in {"who", "whom"}:
            antecedent = next((p for p in reversed(phrases) if p.animate), antecedent)
        elif self.kind(i - 1) == "verb" and self.nodes[i - 1].subject:
            antecedent = self.nodes[i - 1].subject[-1]
        if self.kind(i + 1) == "phrase":
            return  # an object relative: the phrase opens the clause
        self.outer = self.clause if self.clause.finite == "no" else None
        self.clause = _Clause([antecedent])
        self.verb = None

    def _share_objects(self) -> None:
        """A transitive verb without an object takes that of the verb after it: "washes and dries the car"."""
        for left, join, right in zip(self.nodes, self.nodes[1:], self.nodes[2:], strict=False):
            if left.lexical and right.lexical and join.kind == "join" and join.word in {"and", "or"}:
                bare = left.word in lexicon.TRANSITIVE and not left.objects and _same_form(left, right)
                if bare and right.objects and not right.objects[0].governed:
                    left.objects = list(right.objects)
