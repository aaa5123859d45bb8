"""Four small tasks in the little English of ``grammar.py``, in the shape of GLUE's: columns, labels, balance.

Each is made so that neither single words nor lengths give the label away: an error keeps the words of a correct
sentence or swaps forms that are as often correct; a negation turns a word's polarity in half of the rows; sentences
that mean the same differ as much as those that don't; whether a more general word follows depends on quantifier and
place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from random import Random

from prilora_lite.pocket.grammar import (
    ANIMATE,
    INTRANSITIVE,
    OTHER_NUMBER,
    PLACES,
    PREPOSITIONS,
    QUALITIES,
    THINGS,
    TRANSITIVE,
    Clause,
    Concept,
    Phrase,
    Reviewer,
    Speaker,
    draw_clause,
    draw_phrase,
    draw_topic,
    finish,
    hypernyms,
)
from prilora_lite.shared.errors import unknown

SIZES = {"train": 2000, "validation": 500}
Texts = tuple[str, ...]


@lru_cache
def draw_rows(task: str) -> dict[str, list[tuple[Texts, int]]]:
    """The rows of a task, always the same: ``train`` (2,000) and ``validation`` (500), half of each label.

    Args:
        task: ``pocket-cola``, ``pocket-sst2``, ``pocket-mrpc`` or ``pocket-rte``.

    Returns:
        Split -> rows of (texts, label); no texts occur twice.

    Raises:
        ValueError: a task that :data:`DRAW` has not.
    """
    if task not in DRAW:
        raise unknown("task of pocket's", task, DRAW)
    rng, seen = Random(task), set()
    rows: dict[str, list[tuple[Texts, int]]] = {}
    for split, size in SIZES.items():
        rows[split] = []
        while len(rows[split]) < size:
            label = len(rows[split]) % 2
            texts = DRAW[task](rng, label)
            if texts not in seen:
                seen.add(texts)
                rows[split].append((texts, label))
        rng.shuffle(rows[split])
    return rows


def draw_cola(rng: Random, label: int) -> Texts:
    """An acceptable sentence (1), or one with an error (0) of number, valence, verb form or word order."""
    speaker = Speaker(rng)
    right, wrong = rng.choice((_number, _number, _valence, _form, _order))(rng, speaker)
    return (finish(right if label else wrong),)


def draw_sst2(rng: Random, label: int) -> Texts:
    """A review, positive (1) or negative (0)."""
    return (finish(Reviewer(rng).review(bool(label), draw_topic(rng))),)


def draw_mrpc(rng: Random, label: int) -> Texts:
    """Two sentences that mean the same (1), or not (0): roles or qualities changed places, or one word was replaced."""
    speaker = Speaker(rng)
    while True:
        meaning, same, other = rng.choice((_swap_roles, _swap_qualities, _other_word, _other_word))(rng, _event(rng))
        first, second = speaker.say(meaning), speaker.say(same if label else other)
        if meaning != other and first != second:
            return first, second


def draw_rte(rng: Random, label: int) -> Texts:
    """A premise and a sentence that follows from it (0, entailment) or doesn't (1)."""
    follows = label == 0
    speaker = Speaker(rng, freedom=0.2)
    premise, hypothesis = rng.choice((_restrict, _restrict, _predicate, _predicate, _replace))(rng, follows)
    return speaker.say(premise), speaker.say(hypothesis)


DRAW: dict[str, Callable[[Random, int], Texts]] = {
    "pocket-cola": draw_cola,
    "pocket-sst2": draw_sst2,
    "pocket-mrpc": draw_mrpc,
    "pocket-rte": draw_rte,
}


# Acceptability: each returns the words of a correct sentence and of a wrong one.


def _number(rng: Random, speaker: Speaker) -> tuple[list[str], list[str]]:
    words = speaker.say(draw_clause(rng)).split()[:-1]
    words = ["a" if word == "an" else word for word in words]
    marked = [i for i, word in enumerate(words) if word in OTHER_NUMBER]
    if not marked:
        return _number(rng, speaker)
    spot = rng.choice(marked)
    return words, [*words[:spot], OTHER_NUMBER[words[spot]], *words[spot + 1 :]]


def _valence(rng: Random, speaker: Speaker) -> tuple[list[str], list[str]]:
    """A verb with an object and one without change places: *the dog that chases sleeps the cat*."""
    subject = replace(draw_phrase(rng), beside=None, quality=None)
    head, goal, form = speaker.phrase(subject), speaker.phrase(draw_phrase(rng)), 0 if subject.plural else 1
    does, rests = (speaker.word(rng.choice(verbs))[form] for verbs in (TRANSITIVE, INTRANSITIVE))
    if rng.random() < 0.5:
        return [*head, "that", does, *goal, rests], [*head, "that", rests, *goal, does]
    return [*head, "that", rests, does, *goal], [*head, "that", does, rests, *goal]


def _form(rng: Random, speaker: Speaker) -> tuple[list[str], list[str]]:
    """Participle and finite verb change places: *the dog is sees by the cat that chased the bird*."""
    patient, agent, goal = draw_phrase(rng), replace(draw_phrase(rng), beside=None), draw_phrase(rng, more=0.2)
    passive, active = rng.sample(TRANSITIVE, 2)
    participle, finite = speaker.word(passive)[2], speaker.word(active)[0 if agent.plural else 1]
    object_, subject, end = speaker.phrase(patient), speaker.phrase(replace(agent, quality=None)), speaker.phrase(goal)
    be = "are" if patient.plural else "is"
    forms = [(participle, finite), (finite, participle)]
    right, wrong = ([*object_, be, one, "by", *subject, "that", two, *end] for one, two in forms)
    return right, wrong


def _order(rng: Random, speaker: Speaker) -> tuple[list[str], list[str]]:
    """Two neighbours change places."""
    words = speaker.say(draw_clause(rng)).split()[:-1]
    words = ["a" if word == "an" else word for word in words]
    spot = rng.randrange(len(words) - 1)
    while words[spot] == words[spot + 1]:  # "painters that run run" is as right as before
        spot = rng.randrange(len(words) - 1)
    return words, [*words[:spot], words[spot + 1], words[spot], *words[spot + 2 :]]


# Paraphrase: an event, and what keeps or changes its meaning.


def _event(rng: Random) -> Clause:
    subject, goal = (replace(draw_phrase(rng, determiners="the this", more=0.5), beside=None) for _ in range(2))
    place = rng.choice(PLACES) if rng.random() < 0.3 else None
    return Clause(subject, rng.choice(TRANSITIVE), goal, rng.random() < 0.2, place)


def _swap_roles(rng: Random, event: Clause) -> tuple[Clause, Clause, Clause]:
    return event, event, replace(event, subject=event.object, object=event.subject)


def _swap_qualities(rng: Random, event: Clause) -> tuple[Clause, Clause, Clause]:
    subject = replace(event.subject, quality=event.object.quality)
    return event, event, replace(event, subject=subject, object=replace(event.object, quality=event.subject.quality))


def _other_word(rng: Random, event: Clause) -> tuple[Clause, Clause, Clause]:
    """The event with one of two words, with the synonym, and with another word in its place."""
    places: list[tuple[Concept, list[Concept], Callable[[Concept], Clause]]] = [
        (event.verb, TRANSITIVE, lambda verb: replace(event, verb=verb)),
        (event.subject.noun, ANIMATE, lambda noun: replace(event, subject=replace(event.subject, noun=noun))),
        (event.object.noun, ANIMATE, lambda noun: replace(event, object=replace(event.object, noun=noun))),
        (event.subject.quality, QUALITIES, lambda q: replace(event, subject=replace(event.subject, quality=q))),
        (event.object.quality, QUALITIES, lambda q: replace(event, object=replace(event.object, quality=q))),
    ]
    places = [(old, among, put) for old, among, put in places if old and len(old.words) > 1]
    if not places:
        return _other_word(rng, _event(rng))
    old, among, put = rng.choice(places)
    one, synonym = (replace(old, words=(word,)) for word in rng.sample(old.words, 2))
    other = rng.choice([concept for concept in among if len(concept.words) > 1 and concept != old])
    return put(one), put(synonym), put(replace(other, words=(rng.choice(other.words),)))


# Entailment. In a place that is open upwards (some, every in its predicate), what is said of the specific holds of the
# general; in one open downwards (no, every in its subject), the reverse.


def _restrict(rng: Random, follows: bool) -> tuple[Clause, Clause]:
    """Premise and hypothesis that differ in how specific the subject is."""
    upwards = rng.random() < 0.5
    # Three times: how many there are decides what rng draws next, and so all rows, of which the stored runs were made
    determiner = rng.choice(("a", "a", "a") if upwards else ("every", "all", "no"))
    specific, general = _specific_and_general(rng, draw_phrase(rng, determiners=determiner, more=0.2), ANIMATE)
    event = _predication(rng)
    premise, hypothesis = replace(event, subject=specific), replace(event, subject=general)
    return (premise, hypothesis) if upwards == follows else (hypothesis, premise)


def _predicate(rng: Random, follows: bool) -> tuple[Clause, Clause]:
    """Premise and hypothesis that differ in how specific the predicate is: its object, or a place."""
    upwards = rng.random() < 0.5
    determiner = rng.choice(("a", "every", "all") if upwards else ("no",))
    event = replace(_predication(rng), subject=draw_phrase(rng, determiners=determiner, more=0.2))
    if event.object is None or rng.random() < 0.3:
        specific, general = replace(event, place=rng.choice(PLACES)), replace(event, place=None)
    else:
        thing = draw_phrase(rng, determiners="a", more=0.2)
        specific, general = (replace(event, object=o) for o in _specific_and_general(rng, thing, ANIMATE + THINGS))
    return (specific, general) if upwards == follows else (general, specific)


def _replace(rng: Random, follows: bool) -> tuple[Clause, Clause]:
    """Premise and hypothesis that differ by a synonym, or by another word."""
    event = replace(_event(rng), negated=False)
    event = replace(event, subject=replace(event.subject, determiner=rng.choice(("a", "this"))))
    one, synonym, other = _other_word(rng, event)
    return one, (synonym if follows else other)


def _predication(rng: Random) -> Clause:
    place = rng.choice(PLACES) if rng.random() < 0.3 else None
    if rng.random() < 0.5:
        return Clause(None, rng.choice(INTRANSITIVE), place=place)
    return Clause(None, rng.choice(TRANSITIVE), draw_phrase(rng, ANIMATE + THINGS, "a the", more=0.2), place=place)


def _specific_and_general(rng: Random, phrase: Phrase, leaves: list[Concept]) -> tuple[Phrase, Phrase]:
    way = rng.choice(("kind", "kind", "kind", "quality", "beside", "clause"))
    if way == "kind":
        noun = rng.choice(leaves)
        noun = noun if rng.random() < 0.7 else hypernyms(noun)[0]
        return replace(phrase, noun=noun), replace(phrase, noun=rng.choice(hypernyms(noun)))
    phrase = replace(phrase, quality=None, beside=None)
    if way == "quality":
        return replace(phrase, quality=rng.choice(QUALITIES)), phrase
    if way == "beside":
        return replace(phrase, beside=(rng.choice(PREPOSITIONS), Phrase("the", rng.choice(ANIMATE + THINGS)))), phrase
    return replace(phrase, clause=Clause(None, rng.choice(INTRANSITIVE))), phrase
