"""A small English: 394 words, their forms and relations, and sentences drawn from them by a seeded generator.

A sentence has a meaning (:class:`Phrase`, :class:`Clause`), and one meaning can be said in several ways: by a synonym,
in the passive, with an adjective before its noun or after it. Two ways of saying it are a paraphrase; a meaning with a
word replaced by its hypernym may follow from another; a verb that does not agree with its subject is an error. The four
tasks in ``pocket/tasks.py`` and the text in ``pocket/pretrain.py`` are made of this. All of it is our own choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random


@dataclass(frozen=True)
class Word:
    """The forms of one word: (singular, plural), (base, third person, participle), or one form alone."""

    forms: tuple[str, ...]


@dataclass(frozen=True)
class Concept:
    """One meaning and the words for it. ``kind`` is its hypernym for a noun, its group for other words."""

    name: str
    kind: str
    words: tuple[Word, ...]


# One concept between commas, its synonyms side by side; irregular forms after a slash.
_NOUNS = {
    "person": "child/children kid, worker laborer, artist",
    "child": "boy lad, girl lass, baby/babies",
    "worker": "farmer, baker, nurse, teacher",
    "artist": "painter, singer, writer author",
    "animal": "pet, bird, insect bug",
    "pet": "dog hound, cat, rabbit bunny/bunnies, mouse/mice",
    "bird": "crow raven, duck, owl",
    "insect": "bee, ant, beetle",
    "thing": "vehicle, tool, seat, fruit, work",
    "vehicle": "car automobile, truck lorry/lorries, bicycle bike",
    "tool": "hammer, knife/knives, rope cord",
    "seat": "chair, sofa couch/couches, bench/benches",
    "fruit": "apple, pear, cherry/cherries",
    "work": "film movie, book novel, song tune, story/stories tale, poem",
    "": "person/people human, animal creature, thing object",
}
_PLACES = "garden yard, river stream, market, forest wood, house, street road, park, field meadow"
_TRANSITIVE = (
    "chase pursue, follow, help, scare frighten, watch observe, see/seen spot/spotted, find/found discover, "
    "push shove, carry, touch, catch/caught"
)
_INTRANSITIVE = "sleep doze, run, fall, sing, jump leap, wait, laugh chuckle, shout yell, rest, cry weep"
_ATTITUDES = {
    "positive": "like enjoy, love adore, praise applaud, admire, recommend",
    "negative": "hate detest, dislike, mock ridicule, avoid shun/shunned, criticize",
}
_REACTIONS = {"positive": "smile grin, cheer", "negative": "yawn, frown"}
_OPINIONS = {
    "positive": "good fine, great superb, funny amusing, clever smart, charming lovely",
    "negative": "bad poor, awful terrible, dull boring, stupid silly, ugly hideous",
}
_QUALITIES = (
    "big large, small little, old, young, quick fast, slow, red, green, white, happy glad, sad, "
    "tired weary, hungry, wet damp, brave bold, quiet silent"
)
PREPOSITIONS = ("near", "behind", "under", "beside")
_FUNCTION = (
    "the a an this these every all some no many is are does do not never very and but although that by in it itself "
    "they them themselves"
)


def _concepts(kind: str, text: str, inflect: Callable[..., tuple[str, ...]]) -> list[Concept]:
    concepts = []
    for entry in text.split(", "):
        words = tuple(Word(inflect(*word.split("/"))) for word in entry.split())
        concepts.append(Concept(words[0].forms[0], kind, words))
    return concepts


def _noun(singular: str, plural: str = "") -> tuple[str, str]:
    return singular, plural or singular + ("es" if singular.endswith("s") else "s")


def _verb(base: str, participle: str = "") -> tuple[str, str, str]:
    if base.endswith("y") and base[-2] not in "aeiou":
        return base, base[:-1] + "ies", participle or base[:-1] + "ied"
    third = base + ("es" if base.endswith(("ch", "sh")) else "s")
    return base, third, participle or base + ("d" if base.endswith("e") else "ed")


def _plain(form: str) -> tuple[str]:
    return (form,)


NOUNS = {c.name: c for kind, text in _NOUNS.items() for c in _concepts(kind, text, _noun)}
PLACES = _concepts("place", _PLACES, _noun)
TRANSITIVE = _concepts("transitive", _TRANSITIVE, _verb)
INTRANSITIVE = _concepts("intransitive", _INTRANSITIVE, _verb)
ATTITUDES = {kind: _concepts(kind, text, _verb) for kind, text in _ATTITUDES.items()}
REACTIONS = {kind: _concepts(kind, text, _verb) for kind, text in _REACTIONS.items()}
OPINIONS = {kind: _concepts(kind, text, _plain) for kind, text in _OPINIONS.items()}
QUALITIES = _concepts("quality", _QUALITIES, _plain)


def hypernyms(noun: Concept) -> list[Concept]:
    """The kinds that a noun belongs to, nearest first: dog -> pet, animal."""
    return [NOUNS[noun.kind], *hypernyms(NOUNS[noun.kind])] if noun.kind else []


def hyponyms(noun: Concept) -> list[Concept]:
    """The nouns one step below: pet -> dog, cat, rabbit, mouse."""
    return [concept for concept in NOUNS.values() if concept.kind == noun.name]


LEAVES = [noun for noun in NOUNS.values() if not hyponyms(noun)]
PEOPLE = [noun for noun in LEAVES if NOUNS["person"] in hypernyms(noun)]
ANIMALS = [noun for noun in LEAVES if NOUNS["animal"] in hypernyms(noun)]
THINGS = [noun for noun in LEAVES if NOUNS["thing"] in hypernyms(noun)]
WORKS = [noun for noun in LEAVES if noun.kind == "work"]
ANIMATE = PEOPLE + ANIMALS

# The other form in number of every verb and determiner that has one; a noun's own number shows on these.
OTHER_NUMBER = {"is": "are", "does": "do", "this": "these", "every": "all", "a": "many", "itself": "themselves"}
for _concept in (*TRANSITIVE, *INTRANSITIVE, *(c for group in ATTITUDES.values() for c in group)):
    OTHER_NUMBER |= {word.forms[1]: word.forms[0] for word in _concept.words}
OTHER_NUMBER |= {plural: singular for singular, plural in OTHER_NUMBER.items()}


def vocabulary() -> list[str]:
    """Every word of the language, and the punctuation, in a fixed order."""
    groups = [*ATTITUDES.values(), *REACTIONS.values(), *OPINIONS.values()]
    concepts = [*NOUNS.values(), *TRANSITIVE, *INTRANSITIVE, *(c for group in groups for c in group), *QUALITIES]
    forms = [form for concept in concepts for word in concept.words for form in word.forms]
    forms += [word.forms[0] for place in PLACES for word in place.words]
    return list(dict.fromkeys([".", ",", *_FUNCTION.split(), *PREPOSITIONS, *forms]))


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: *the big dog near the river*, *every cat that sleeps*.

    ``beside`` is a preposition and a phrase, ``clause`` a relative clause (its subject is this phrase).
    """

    determiner: str
    noun: Concept
    plural: bool = False
    quality: Concept | None = None
    beside: tuple[str, Phrase] | None = None
    clause: Clause | None = None


@dataclass(frozen=True)
class Clause:
    """Who does what to whom, and where: *the dog chases the cat in the park*.

    ``subject`` is None in a relative clause, where it is the phrase before it. ``reflexive``: the object is the
    subject.
    """

    subject: Phrase | None
    verb: Concept
    object: Phrase | None = None
    negated: bool = False
    place: Concept | None = None
    reflexive: bool = False


class Speaker:
    """Says meanings in words. Each choice between ways of saying it is drawn from ``rng``.

    Args:
        rng: the source of all choices.
        freedom: probability of each less usual choice: a synonym, the passive, an adjective after its noun, the
            place first. 0 gives one plain sentence for each meaning.
    """

    def __init__(self, rng: Random, freedom: float = 0.4) -> None:
        self.rng, self.freedom = rng, freedom

    def say(self, clause: Clause) -> str:
        """The sentence, words and full stop separated by blanks."""
        place = self._place(clause.place)
        words = self._clause(clause)
        words = [*place, ",", *words] if place and self._turn() else [*words, *place]
        return finish(words)

    def word(self, concept: Concept) -> tuple[str, ...]:
        """The forms of one of the words for a concept."""
        return self.rng.choice(concept.words).forms if self._turn() else concept.words[0].forms

    def phrase(self, phrase: Phrase) -> list[str]:
        """A noun phrase in words."""
        determiner = phrase.determiner
        if phrase.plural and determiner in ("this", "a"):
            determiner = {"this": "these", "a": "some"}[determiner]
        words = [determiner]
        behind: list[str] = []
        if phrase.quality:
            quality = self.word(phrase.quality)[0]
            if phrase.clause is None and phrase.beside is None and self._turn():
                behind = ["that", "are" if phrase.plural else "is", quality]
            else:
                words.append(quality)
        words.append(self.word(phrase.noun)[phrase.plural])
        if phrase.beside:
            words += [phrase.beside[0], *self.phrase(phrase.beside[1])]
        if phrase.clause:
            behind = ["that", *self.predicate(phrase.clause, phrase.plural), *self._place(phrase.clause.place)]
        return words + behind

    def predicate(self, clause: Clause, plural: bool) -> list[str]:
        """Verb and object, agreeing with a subject of that number."""
        base, third, _ = self.word(clause.verb)
        words = ["do" if plural else "does", "not", base] if clause.negated else [base if plural else third]
        if clause.reflexive:
            words.append("themselves" if plural else "itself")
        return words + (self.phrase(clause.object) if clause.object else [])

    def _clause(self, clause: Clause) -> list[str]:
        passive_is_the_same = clause.object and {clause.subject.determiner, clause.object.determiner} <= {"the", "this"}
        if passive_is_the_same and self._turn():
            _, _, participle = self.word(clause.verb)
            auxiliary = ["are" if clause.object.plural else "is", *(["not"] if clause.negated else [])]
            return [*self.phrase(clause.object), *auxiliary, participle, "by", *self.phrase(clause.subject)]
        return [*self.phrase(clause.subject), *self.predicate(clause, clause.subject.plural)]

    def _place(self, place: Concept | None) -> list[str]:
        return ["in", "the", self.word(place)[0]] if place else []

    def _turn(self) -> bool:
        return self.rng.random() < self.freedom


def finish(words: list[str]) -> str:
    """Words to a sentence: *an* before a vowel, a full stop."""
    words = [*words, "."]
    for i, word in enumerate(words[:-1]):
        if word == "a" and words[i + 1][0] in "aeiou":
            words[i] = "an"
    return " ".join(words)


def draw_phrase(
    rng: Random, nouns: list[Concept] = ANIMATE, determiners: str = "the this a", more: float = 0.4
) -> Phrase:
    """A phrase at random; with probability ``more`` it gets a quality, with half of that a prepositional phrase."""
    determiner, noun = rng.choice(determiners.split()), rng.choice(nouns)
    plural = {"every": False, "all": True, "many": True}.get(determiner, rng.random() < 0.5)
    quality = rng.choice(QUALITIES) if rng.random() < more else None
    beside = None
    if rng.random() < more / 2:
        beside = rng.choice(PREPOSITIONS), Phrase("the", rng.choice(ANIMATE + THINGS), rng.random() < 0.5)
    return Phrase(determiner, noun, plural, quality, beside)


def draw_clause(rng: Random) -> Clause:
    """A clause at random: intransitive, transitive or reflexive; at times with a relative clause, *not*, or a place."""
    subject = draw_phrase(rng, determiners="the this a every many no")
    if subject.beside is None and rng.random() < 0.3:
        subject = replace(subject, clause=draw_relative(rng))
    place = rng.choice(PLACES) if rng.random() < 0.25 else None
    negated = subject.determiner in ("the", "this") and rng.random() < 0.2
    if rng.random() < 0.35:
        return Clause(subject, rng.choice(INTRANSITIVE), None, negated, place)
    if subject.noun in ANIMALS and subject.clause is None and rng.random() < 0.15:
        return Clause(subject, rng.choice(TRANSITIVE), None, negated, place, reflexive=True)
    return Clause(subject, rng.choice(TRANSITIVE), draw_phrase(rng, ANIMATE + THINGS, more=0.3), negated, place)


def draw_relative(rng: Random) -> Clause:
    """What follows *that*: *sleeps*, *chases the cat*."""
    if rng.random() < 0.4:
        return Clause(None, rng.choice(INTRANSITIVE))
    return Clause(None, rng.choice(TRANSITIVE), Phrase("the", rng.choice(ANIMATE), rng.random() < 0.5))


def draw_topic(rng: Random) -> Phrase:
    """What a review is about: *the film*, *these old songs*."""
    return draw_phrase(rng, WORKS, "the this", more=0.2)


class Reviewer:
    """Says of works that they are good or bad, and what people who think so do.

    Args:
        rng: the source of all choices.
        negation: share of statements that are negated. With one half, a word's own polarity says nothing about the
            statement's.
        contrast: share of reviews that join statements of opposite polarity.
        pairs: share of the statements without negation that name two reasons of one polarity: *dull and ugly*.
        detail: how much is said of the people, from 0 to 1.
    """

    def __init__(
        self, rng: Random, negation: float = 0.5, contrast: float = 0.5, pairs: float = 0.0, detail: float = 0.2
    ) -> None:
        self.rng, self.negation, self.contrast, self.pairs, self.detail = rng, negation, contrast, pairs, detail
        self.speaker = Speaker(rng)

    def review(self, positive: bool, topic: Phrase | None) -> list[str]:
        """Words of one statement or two; beside *but* and *although* the main one has the review's polarity."""
        contrasts = ("but", "although", "although first")
        kind = self.rng.choice(contrasts if self.rng.random() < self.contrast else ("one", "one", "and"))
        if kind == "one":
            return self.statement(positive, topic)
        again, plural = topic if self.rng.random() < 0.5 else None, topic is not None and topic.plural
        first = self.statement(positive == (kind in ("and", "although")), topic, plural)
        second = self.statement(positive == (kind != "although"), again, plural)
        return ["although", *first, ",", *second] if kind == "although first" else [*first, kind, *second]

    def statement(self, positive: bool, topic: Phrase | None, plural: bool = False) -> list[str]:
        """Words of one statement: *the film is never dull*, *the boys do not like it*, *no girl hates it*.

        Args:
            positive: polarity of the whole, whatever that of its words.
            topic: None for a pronoun, whose number is ``plural``.
            plural: number of the pronoun.
        """
        plural = topic.plural if topic else plural
        negated = self.rng.random() < self.negation
        polarity = "positive" if positive != negated else "negative"
        form = self.rng.choice(("opinion", "opinion", "passive", "active"))
        if form == "active":
            return self._active(
                polarity, negated, self.speaker.phrase(topic) if topic else ["them" if plural else "it"]
            )
        words = self.speaker.phrase(topic) if topic else ["they" if plural else "it"]
        words += ["are" if plural else "is", *([self.rng.choice(("not", "never"))] if negated else [])]
        if form == "passive":
            return [*words, *self._words(ATTITUDES[polarity], 2, negated), "by", *self.speaker.phrase(self._people())]
        degree = ["very"] if self.rng.random() < 0.3 else []
        return [*words, *degree, *self._words(OPINIONS[polarity], 0, negated)]

    def reaction(self, positive: bool) -> list[str]:
        """What people who think so do: *the girls smile*, *many farmers yawn*."""
        people = self._people()
        verbs = self._words(REACTIONS["positive" if positive else "negative"], 0 if people.plural else 1, False)
        return [*self.speaker.phrase(people), *verbs]

    def _active(self, polarity: str, negated: bool, object_: list[str]) -> list[str]:
        people, negator = self._people(), self.rng.choice(("not", "never", "no")) if negated else ""
        if negator == "no":
            people = replace(people, determiner="no")
        auxiliary = {"not": ["do" if people.plural else "does", "not"], "never": ["never"]}.get(negator, [])
        form = 0 if people.plural or negator == "not" else 1
        return [*self.speaker.phrase(people), *auxiliary, *self._words(ATTITUDES[polarity], form, negated), *object_]

    def _people(self) -> Phrase:
        return draw_phrase(self.rng, PEOPLE, "the the many", more=self.detail)

    def _words(self, concepts: list[Concept], form: int, negated: bool) -> list[str]:
        """One word, or two joined by *and*, in the form of that number."""
        if negated or self.rng.random() >= self.pairs:
            return [self.speaker.word(self.rng.choice(concepts))[form]]
        first, second = (self.speaker.word(concept)[form] for concept in self.rng.sample(concepts, 2))
        return [first, "and", second]
