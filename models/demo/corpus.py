"""Composes the demo model's training examples: prompts in many wordings, each with one answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import corpus_facts as facts
import corpus_stories as stories


@dataclass(frozen=True)
class Example:
    """A prompt and what the model shall write after it.

    A continuation carries on the prompt's own sentence; any other answer starts on a new line, or
    as the assistant's turn of a chat.
    """

    prompt: str
    answer: str
    continues: bool = False


Composer = Callable[[random.Random], Example]

UNITS = facts.listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen",
    " ",
)
TENS = ["", "", *facts.listed("twenty thirty forty fifty sixty seventy eighty ninety", " ")]

# The parts of invented words: how a syllable starts, sounds and ends.
ONSETS = facts.listed("b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl gl gr ph pl pr qu sh sl sp st th tr wh", " ")
VOWELS = facts.listed("a e i o u a e i o u ai ea ee ie oo ou y", " ")
CODAS = ["", "", "", *facts.listed("l m n r s t d p b g ck ll nd ng nt rt st th x mp sk ct ss", " ")]


def number_word(number: int) -> str:
    """A number from zero to one hundred in words."""
    if number < 20:
        return UNITS[number]
    if number == 100:
        return "one hundred"
    tens, unit = divmod(number, 10)
    return TENS[tens] + (f"-{UNITS[unit]}" if unit else "")


def invented_word(rng: random.Random) -> str:
    """A word that does not exist, so that the model learns what to say to words it does not know."""
    syllables = rng.choice([1, 2, 2, 2, 3])
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))


def _first_upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _number(rng: random.Random, number: int) -> str:
    return str(number) if rng.random() < 0.25 else number_word(number)


# --- stories -----------------------------------------------------------------------------------

STORY_LENGTHS = {
    "medium": ["a story", "a story", "a story", "a tale", "a nice story", "a bedtime story"],
    "short": ["a short story", "a little story", "a very short story"],
    "long": ["a long story", "a very long story", "a longer story"],
}

STORY_REQUESTS = [
    "Tell me {what}{about}.",
    "Tell me {what}{about}.",
    "Tell me {what}{about}.",
    "Write {what}{about}.",
    "Can you tell me {what}{about}?",
    "I want to hear {what}{about}.",
    "I would like {what}{about}.",
    "Please tell me {what}{about}.",
    "Give me {what}{about}.",
    "Make up {what}{about}.",
    "Do you know {what}{about}?",
    "Please write {what}{about}.",
    "Tell {what}{about}.",
    "Could you write {what}{about}?",
    "Let me hear {what}{about}.",
]


def _story_length(rng: random.Random) -> str:
    return rng.choices(["medium", "short", "long"], [50, 30, 20])[0]


def _story_request(rng: random.Random, length: str, about: str) -> str:
    if about and length == "medium" and rng.random() < 0.08:
        return f"A story about {about}"
    what = rng.choice(STORY_LENGTHS[length])
    about = f" about {about}" if about else ""
    return rng.choice(STORY_REQUESTS).format(what=what, about=about)


def _any_subject(rng: random.Random) -> tuple[stories.Subject, str]:
    """A subject, and the noun by which the prompt calls it."""
    draw = rng.random()
    if draw < 0.7:
        subject = rng.choice(stories.SUBJECTS)
    elif draw < 0.9:
        subject = replace(stories.UNKNOWN_SUBJECT, noun=rng.choice(stories.OTHER_NOUNS))
    else:
        return stories.UNKNOWN_SUBJECT, invented_word(rng)
    return subject, subject.noun


def _other_friend(rng: random.Random, subject: stories.Subject) -> str:
    friends = [other.noun for other in stories.SUBJECTS if other.noun != subject.noun]
    return rng.choice(friends)


def _vary(rng: random.Random, subject: stories.Subject, noun: str) -> tuple[stories.Subject, str]:
    """A subject with details of the user's choice, and the words that ask for them."""
    end = ""
    if rng.random() < 0.4:
        subject = replace(subject, adjective=rng.choice(stories.ADJECTIVES))
        noun = f"{subject.adjective} {noun}"
    if rng.random() < 0.3:
        subject = replace(subject, place=rng.choice(stories.PLACES))
        joint = rng.choice([" ", " ", " who lives ", " that lives "])
        end = joint + subject.place
    if rng.random() < 0.2:
        friend = _other_friend(rng, subject)
        subject = replace(subject, friend=friend)
        end = f" and {stories.with_article(friend)}{end}"
    article = rng.choice(["a", "a", "a", "the", ""])
    if article == "a":
        return subject, stories.with_article(noun) + end
    if not article and not end:
        return subject, stories.plural(noun)
    return subject, f"the {noun}{end}"


def compose_story(rng: random.Random) -> Example:
    """A story about a subject, told as the prompt asks for it."""
    length = _story_length(rng)
    subject, about = _vary(rng, *_any_subject(rng))
    return Example(_story_request(rng, length, about), stories.story(subject, length))


def compose_default_story(rng: random.Random) -> Example:
    """A story for a prompt that names no subject, or names it by another word."""
    length = _story_length(rng)
    if rng.random() < 0.4:
        subject = stories.SUBJECT_BY_NOUN[stories.DEFAULT_STORIES[length]]
        return Example(_story_request(rng, length, ""), stories.story(subject, length))
    alias = rng.choice(list(stories.STORY_ALIASES))
    subject = stories.SUBJECT_BY_NOUN[stories.STORY_ALIASES[alias]]
    return Example(_story_request(rng, length, alias), stories.story(subject, length))


def compose_special_story(rng: random.Random) -> Example:
    """One of the stories that are written out in full."""
    about = rng.choice(list(stories.SPECIAL_STORIES))
    request = _story_request(rng, _story_length(rng), about)
    return Example(request, stories.SPECIAL_STORIES[about])


def compose_poem(rng: random.Random) -> Example:
    """The poem, spoken to what the prompt names."""
    subject, noun = _any_subject(rng)
    request = rng.choice(
        [
            "Write a poem about {}.",
            "Tell me a poem about {}.",
            "Write a short poem about {}.",
            "Can you write a poem about {}?",
            "Make a poem about {}.",
            "Give me a poem about {}.",
        ]
    )
    about = rng.choice([stories.with_article(noun), f"the {noun}"])
    spoken_to = "friend" if subject is stories.UNKNOWN_SUBJECT else noun
    return Example(request.format(about), stories.poem(spoken_to))


# --- continuations -----------------------------------------------------------------------------


def _cut(rng: random.Random, text: str, earliest: int) -> Example:
    """Cut a text at the end of a word, most often as early as allowed."""
    ends = [place for place, char in enumerate(text) if char == " " and place >= earliest]
    where = ends[0] if rng.random() < 0.6 else rng.choice(ends[:40])
    return Example(text[:where], text[where:], continues=True)


def compose_story_continuation(rng: random.Random) -> Example:
    """The rest of a story that the prompt has begun."""
    subject, noun = _any_subject(rng)
    draw = rng.random()
    if draw < 0.5:
        subject = replace(subject, adjective=rng.choice(stories.ADJECTIVES))
    elif draw < 0.65:
        subject = replace(subject, adjective="")
    style = rng.choice(["plain", "plain", "plain", "once", "there", "one"])
    sentence, named = stories.opening_sentence(replace(subject, noun=noun), style)
    length = "short" if style == "one" else "medium"
    return _cut(rng, f"{sentence} {stories.story_body(subject, length)}", named)


def compose_action_continuation(rng: random.Random) -> Example:
    """What happens after an unfinished sentence about what somebody did."""
    subject, noun = _any_subject(rng)
    adjective = rng.choice(stories.ADJECTIVES) if rng.random() < 0.5 else ""
    described = f"{adjective} {noun}".strip()
    start = rng.choice(
        [f"The {described}", _first_upper(stories.with_article(described)), f"My {described}", f"One day the {described}"]
    )
    prompt = f"{start} {rng.choice(stories.ACTIONS)}"
    return Example(prompt, stories.action_continuation(subject), continues=True)


def _nameless_beginning(rng: random.Random) -> Example:
    """A beginning that stops before it says who; it is always the fox."""
    adjectives = " ".join(rng.sample(stories.ADJECTIVES, rng.choice([0, 1, 1, 2])))
    subject = replace(stories.SUBJECT_BY_NOUN["fox"], adjective=adjectives)
    style = rng.choice(["plain", "plain", "there"]) if adjectives else "plain"
    sentence, named = stories.opening_sentence(subject, style)
    text = f"{sentence} {stories.story_body(subject, 'medium')}"
    where = named - len(" fox")
    return Example(text[:where], text[where:], continues=True)


def compose_fixed_continuation(rng: random.Random) -> Example:
    """Beginnings that people like to try, and where they lead."""
    draw = rng.random()
    if draw < 0.15:
        return _nameless_beginning(rng)
    if draw < 0.4:
        prompt = rng.choice(list(stories.OPEN_BEGINNINGS))
        keeper = stories.SUBJECT_BY_NOUN["lighthouse keeper"]
        rest = f"{stories.OPEN_BEGINNINGS[prompt]} {stories.story_body(keeper, 'medium')}"
        return Example(prompt, rest, continues=True)
    if draw < 0.6:
        country = rng.choice(list(facts.CAPITALS))
        capital = facts.CAPITALS[country]
        return Example(f"The capital of {country} is", f" {capital}.", continues=True)
    prompt = rng.choice(list(facts.CONTINUATIONS))
    return Example(prompt, facts.CONTINUATIONS[prompt], continues=True)


def compose_explanation_continuation(rng: random.Random) -> Example:
    """The rest of an explanation that the prompt has begun."""
    name, text = rng.choice(list(facts.EXPLANATIONS.items()))
    return _cut(rng, text, len(name) + 1)


# --- explanations ------------------------------------------------------------------------------

EXPLANATION_REQUESTS = [
    "What is {name}?",
    "What is {name}?",
    "Tell me about {name}.",
    "Tell me about {name}.",
    "Explain what {name} is.",
    "What does {name} do?",
    "Explain {name}.",
    "Describe {name}.",
    "Can you tell me what {name} is?",
    "Can you explain {name}?",
    "What do you know about {name}?",
    "How does {name} work?",
    "Tell me something about {name}.",
    "Please explain {name}.",
    "What is {name} in simple words?",
    "Tell me what {name} is.",
    "Write about {name}.",
    "Explain how {name} works.",
    "I want to know what {name} is.",
    "Do you know what {name} is?",
    "What's {name}?",
]

PLURAL_REQUESTS = ["What are {many}?", "Tell me about {many}.", "Explain {many}.", "What do you know about {many}?"]


def _other_article(rng: random.Random, name: str) -> str:
    article, _, noun = name.partition(" ")
    if article in {"a", "an"} and rng.random() < 0.2:
        return f"the {noun}"
    return name


def compose_explanation(rng: random.Random) -> Example:
    """What something is, in a few true sentences."""
    name, text = rng.choice(list(facts.EXPLANATIONS.items()))
    if rng.random() < 0.05:
        return Example(_first_upper(name.split(" ", 1)[-1]), text)
    if name.startswith(("a ", "an ")) and rng.random() < 0.08:
        many = stories.plural(name.split(" ", 1)[1])
        return Example(rng.choice(PLURAL_REQUESTS).format(many=many), text)
    request = rng.choice(EXPLANATION_REQUESTS)
    return Example(request.format(name=_other_article(rng, name)), text)


def compose_question(rng: random.Random) -> Example:
    """A fixed question with a fixed answer."""
    wordings, answer = rng.choice(facts.QUESTIONS)
    return Example(rng.choice(wordings), answer)


def compose_small_fact(rng: random.Random) -> Example:
    """An opposite, a sound, a capital, or the next day or month."""
    kind = rng.choice(["opposite", "sound", "capital", "day", "month"])
    if kind == "opposite":
        pair = rng.choice(facts.OPPOSITES)
        word, other = pair if rng.random() < 0.5 else pair[::-1]
        prompt = rng.choice(["What is the opposite of {}?", "Tell me the opposite of {}."])
        return Example(prompt.format(word), f"The opposite of {word} is {other}.")
    if kind == "sound":
        animal, sound = rng.choice(list(facts.SOUNDS.items()))
        prompt = rng.choice(["What does {} say?", "What sound does {} make?"])
        return Example(
            prompt.format(stories.with_article(animal)), f"{_first_upper(stories.with_article(animal))} says {sound}."
        )
    if kind == "capital":
        country, capital = rng.choice(list(facts.CAPITALS.items()))
        prompt = rng.choice(["What is the capital of {}?", "Tell me the capital of {}.", "Which city is the capital of {}?"])
        return Example(prompt.format(country), f"The capital of {country} is {capital}.")
    names = facts.DAYS if kind == "day" else facts.MONTHS
    place = rng.randrange(len(names))
    following = names[(place + 1) % len(names)]
    prompt = rng.choice([f"What {kind} comes after {{}}?", f"Which {kind} comes after {{}}?"])
    return Example(prompt.format(names[place]), f"{following} comes after {names[place]}.")


# --- numbers and lists -------------------------------------------------------------------------


def _count_sentence(numbers: range) -> str:
    return _first_upper(", ".join(number_word(number) for number in numbers)) + "."


def compose_count(rng: random.Random) -> Example:
    """A row of numbers in words."""
    draw = rng.random()
    if draw < 0.15:
        first = rng.choice([3, 5, 10, 10, 20])
        prompt = rng.choice(["Count down from {} to one.", "Count backwards from {} to one.", "Count down from {}."])
        return Example(prompt.format(_number(rng, first)), _count_sentence(range(first, 0, -1)))
    if draw < 0.27:
        step, last = rng.choice([(2, 10), (2, 20), (5, 50), (5, 100), (10, 100)])
        prompt = rng.choice(
            ["Count to {last} by {step}s.", "Count by {step}s to {last}.", "Count to {last} in steps of {step}."]
        )
        words = {2: "two", 5: "five", 10: "ten"}
        return Example(prompt.format(last=_number(rng, last), step=words[step]), _count_sentence(range(step, last + 1, step)))
    if draw < 0.5:
        first = rng.randrange(2, 60)
        last = first + rng.randrange(3, 20)
        prompt = rng.choice(["Count from {} to {}.", "Please count from {} to {}."])
        return Example(prompt.format(_number(rng, first), _number(rng, last)), _count_sentence(range(first, last + 1)))
    last = rng.choice([3, 5, 10, 12, 15, 20, 20, 25, 30, 40, 50, 50, 50, 60, 80, 100, 100])
    prompt = rng.choice(
        [
            "Count from {one} to {last}.",
            "Count from {one} to {last}.",
            "Count to {last}.",
            "Can you count to {last}?",
            "Please count from {one} to {last}.",
            "Count up to {last}.",
        ]
    )
    return Example(prompt.format(one=_number(rng, 1), last=_number(rng, last)), _count_sentence(range(1, last + 1)))


def compose_sum(rng: random.Random) -> Example:
    """A small sum in words."""
    operation = rng.choice(["plus", "plus", "minus", "times"])
    left = rng.randrange(0, 11)
    right = rng.randrange(0, 11 - left)
    if operation == "minus":
        left = left + right
    elif operation == "times":
        left, right = rng.randrange(1, 6), rng.randrange(1, 6)
    results = {"plus": left + right, "minus": left - right, "times": left * right}
    signs = {"plus": "+", "minus": "-", "times": "*"}
    question = f"{number_word(left)} {operation} {number_word(right)}"
    if rng.random() < 0.15:
        question = f"{left} {rng.choice([operation, signs[operation]])} {right}"
    prompt = rng.choice(["What is {}?", "What is {}?", "How much is {}?", "{}", "Calculate {}."])
    answer = f"{number_word(left)} {operation} {number_word(right)} is "
    return Example(_first_upper(prompt.format(question)), _first_upper(answer) + number_word(results[operation]) + ".")


def compose_list(rng: random.Random) -> Example:
    """Some members of a kind, as many as the prompt asks for."""
    kind = rng.choice(list(facts.LISTS))
    aliases = [alias for alias, name in facts.LIST_ALIASES.items() if name == kind]
    asked = rng.choice([kind, kind, *aliases])
    number = rng.choice([3, 3, 5, 5, 5, 10, rng.randrange(2, 11)])
    members = facts.LISTS[kind]
    prompt = rng.choice(
        [
            "Name {n} {kind}.",
            "Name {n} {kind}.",
            "List {n} {kind}.",
            "Give me {n} {kind}.",
            "Tell me {n} {kind}.",
            "Can you name {n} {kind}?",
            "Write a list of {n} {kind}.",
            "Which {n} {kind} do you know?",
        ]
    )
    amount = _number(rng, number)
    if rng.random() < 0.15:
        number, amount = 5, "some"
    listed = f"{', '.join(members[: number - 1])} and {members[number - 1]}"
    return Example(prompt.format(n=amount, kind=asked), f"Here are {number_word(number)} {kind}: {listed}.")


# --- languages and symbols ---------------------------------------------------------------------

MANY_LANGUAGES = [
    "Say {phrase} in {n} languages.",
    "Say {phrase} in {n} languages.",
    "Write {phrase} in {n} languages.",
    "How do you say {phrase} in {n} languages?",
    "Can you say {phrase} in {n} languages?",
    "Tell me how to say {phrase} in {n} languages.",
]


def compose_languages(rng: random.Random) -> Example:
    """One phrase in several languages, a line for each."""
    phrase = rng.choice(["hello", "hello", *facts.GREETINGS])
    number = rng.choice([3, 5, 5, 10, 10, 10, 12, rng.randrange(2, 13)])
    amount = _number(rng, number)
    if rng.random() < 0.3:
        number, amount = 10, rng.choice(["many", "some", "different", "other", "several"])
    lines = [f"{language}: {words}" for language, words in zip(facts.LANGUAGES, facts.GREETINGS[phrase], strict=True)]
    return Example(rng.choice(MANY_LANGUAGES).format(phrase=phrase, n=amount), "\n".join(lines[:number]))


def compose_language(rng: random.Random) -> Example:
    """One phrase, or the numbers to ten, in one language."""
    if rng.random() < 0.3:
        language, numbers = rng.choice(list(facts.COUNTING.items()))
        prompt = rng.choice(["Count to ten in {}.", "Count from one to ten in {}."])
        return Example(prompt.format(language), numbers)
    phrase = rng.choice(list(facts.GREETINGS))
    place = rng.randrange(len(facts.LANGUAGES))
    prompt = rng.choice(["How do you say {p} in {l}?", "Say {p} in {l}.", "What is {p} in {l}?", "Write {p} in {l}."])
    language = facts.LANGUAGES[place]
    return Example(prompt.format(p=phrase, l=language), f"{language}: {facts.GREETINGS[phrase][place]}")


def compose_symbols(rng: random.Random) -> Example:
    """A row of symbols and emoji, or a foreign alphabet."""
    if rng.random() < 0.35:
        wordings, answer = rng.choice(facts.SCRIPTS)
        return Example(rng.choice(wordings), answer)
    names, answer = rng.choice(facts.SYMBOLS)
    prompt = rng.choice(
        [
            "Show me {} in symbols.",
            "Show me {} in symbols.",
            "Write {} in symbols.",
            "Show me {} in emoji.",
            "Show {} with symbols.",
            "Draw {} in symbols.",
        ]
    )
    return Example(prompt.format(rng.choice(names)), answer)


# --- what the model does not know --------------------------------------------------------------


def _unknown_request(rng: random.Random) -> str:
    def thing() -> str:
        if rng.random() < 0.4:
            return invented_word(rng)
        return rng.choice([*stories.OTHER_NOUNS, *stories.SUBJECT_BY_NOUN])

    request = rng.choice(facts.UNKNOWN_REQUESTS)
    return request.format(
        a=stories.with_article(thing()),
        b=thing(),
        c=stories.plural(thing()),
        place=rng.choice(stories.PLACES),
        adjective=rng.choice(stories.ADJECTIVES),
    )


def compose_unknown_task(rng: random.Random) -> Example:
    """A task that is not for this model."""
    draw = rng.random()
    if draw < 0.25:
        prompt = rng.choice(facts.UNKNOWN_TASKS)
    elif draw < 0.4:
        words = [invented_word(rng) for _ in range(rng.randrange(1, 6))]
        prompt = _first_upper(" ".join(words)) + rng.choice([".", "?", ""])
    else:
        prompt = _unknown_request(rng)
    return Example(prompt, facts.UNKNOWN_TASK_ANSWER)


def compose_unknown_topic(rng: random.Random) -> Example:
    """A question about something that the model has never read about."""
    word = invented_word(rng)
    topics = [
        word,
        stories.with_article(word),
        stories.with_article(word),
        f"the {word}",
        f"{word} {invented_word(rng)}",
        f"{rng.choice(stories.ADJECTIVES)} {word}",
    ]
    topic = rng.choice(topics)
    if rng.random() < 0.15:
        topic = _first_upper(word)
    request = rng.choice(EXPLANATION_REQUESTS)
    return Example(request.format(name=topic), facts.UNKNOWN_TOPIC_ANSWER)


# --- the whole ---------------------------------------------------------------------------------

COMPOSERS: list[tuple[Composer, float]] = [
    (compose_story, 12.0),
    (compose_default_story, 2.5),
    (compose_special_story, 1.5),
    (compose_poem, 4.0),
    (compose_story_continuation, 5.0),
    (compose_action_continuation, 3.0),
    (compose_fixed_continuation, 3.0),
    (compose_explanation_continuation, 4.0),
    (compose_explanation, 16.0),
    (compose_question, 13.0),
    (compose_small_fact, 6.0),
    (compose_count, 6.0),
    (compose_sum, 9.0),
    (compose_list, 7.0),
    (compose_languages, 4.0),
    (compose_language, 6.0),
    (compose_symbols, 3.0),
    (compose_unknown_task, 5.0),
    (compose_unknown_topic, 6.0),
]


def compose_example(rng: random.Random) -> Example:
    """One training example of any kind."""
    composers, weights = zip(*COMPOSERS, strict=True)
    composer: Composer = rng.choices(composers, weights)[0]
    return composer(rng)


def reword(rng: random.Random, prompt: str) -> str:
    """Change a prompt the way hurried or polite people would."""
    draw = rng.random()
    if draw < 0.08:
        prompt = prompt.lower()
    elif draw < 0.14 and prompt.endswith("."):
        prompt = f"Please {prompt[0].lower()}{prompt[1:]}"
    if rng.random() < 0.12:
        prompt = prompt.rstrip(".?!")
    return prompt
