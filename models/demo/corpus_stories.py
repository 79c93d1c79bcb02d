"""Story frames, subjects and openings from which the demo corpus composes its stories and poems."""

from __future__ import annotations

from dataclasses import dataclass

from corpus_facts import listed


@dataclass(frozen=True)
class Subject:
    """Everything a story frame needs to know about the one the story is about."""

    noun: str
    adjective: str
    place: str
    friend: str
    treasure: str
    work: str
    frame: str
    pronoun: str = "it"


@dataclass(frozen=True)
class Frame:
    """The fixed sentences of one plot; `detour` is told only in the long version."""

    verb: str
    habit: str
    beginning: str
    detour: str
    turning: str
    ending: str


POSSESSIVES = {"it": "its", "he": "his", "she": "her"}

FRAMES = {
    "find": Frame(
        verb="lived",
        habit="Every morning {it} {work}, and every evening {it} listened to the wind.",
        beginning=(
            "One day the {noun} found {a_treasure} beside the path. It shone like a small sun. "
            '"Somebody has lost this," said the {noun}. "I must find out who." '
            "So {it} set out at once."
        ),
        detour=(
            "First {it} came to a pond and asked the ducks. "
            '"It is not ours," said the ducks, "but it would make a fine boat." '
            "Then {it} came to a farm and asked the old cow. "
            '"It is not mine," said the cow, "but it is kind of you to ask. '
            'Try the hill behind the mill." '
            "The sun was high by now and the road was long, but the {noun} did not turn back. "
            "{It} drank from a cool stream, rested under a tree, and went on."
        ),
        turning=(
            "At the top of the hill sat {a_friend}, looking at the ground and sighing. "
            '"Why are you so sad?" asked the {noun}. '
            '"I have lost my {treasure}," said the {friend}. "My grandmother gave it to me." '
            "The {noun} held it out, and the {friend} laughed for joy."
        ),
        ending=(
            "They shared bread and honey until the stars came out. "
            "From that day on, the {noun} and the {friend} were the best of friends."
        ),
    ),
    "race": Frame(
        verb="lived",
        habit="Every morning {it} {work}, and every evening {it} dreamed of running.",
        beginning=(
            "In spring the animals held a great relay race. "
            "Each runner had to carry {a_treasure} and hand it to the next. "
            '"I am not the fastest," said the {noun}, "but I will not let go."'
        ),
        detour=(
            "The hare ran first and flew over the meadow. "
            "The deer ran second and jumped across the brook. "
            "The goose was third, and she beat the air with her wide wings until it whistled. "
            "But the other team was close behind, and the crowd shouted and stamped. "
            "Nobody could say who would win."
        ),
        turning=(
            "Then it was the turn of the {noun}. {It} took the {treasure} and ran. "
            "Rain began to fall and the ground grew soft, but {it} looked only at the {friend}, "
            'who was waiting at the last bend. "Here!" cried the {friend}. "I have it!" '
            "The {treasure} passed from one to the other and never touched the ground."
        ),
        ending=(
            "They won by the width of a whisker. "
            '"None of us was the fastest," said the {noun} that evening, '
            '"but none of us let go."'
        ),
    ),
    "winter": Frame(
        verb="lived",
        habit="Every morning {it} {work}, and every evening {it} sat by the fire.",
        beginning=(
            "That year winter came early. Snow covered the paths, and the pond turned to glass. "
            "One night there was a knock at the door. Outside stood {a_friend}, white with snow. "
            '"May I come in?" asked the {friend}. "The wind has blown my house away."'
        ),
        detour=(
            "The {noun} looked at {its} small bed and {its} small basket of nuts. "
            "There was just enough for one. Then {it} opened the door as wide as it would go. "
            '"Where one can sit, two can sit," {it} said. '
            "They put the kettle on the fire and told each other stories: one about the sea, "
            "one about the moon, and one about a mountain that wanted to dance. "
            "Outside the wind howled, but inside nobody heard it."
        ),
        turning=(
            'When the nuts were gone, the {friend} said, "I know where apples lie under the snow." '
            "So the two went out together. They took {a_treasure} with them for good luck. "
            "The {friend} dug, the {noun} carried, and by noon they had a sack full of "
            "sweet red apples."
        ),
        ending=(
            "When spring came, they built a new house right beside the old one. There is still a path between the two doors."
        ),
    ),
    "storm": Frame(
        verb="lived",
        habit="Every morning {it} {work}, and every evening {it} looked out at the sky.",
        beginning=(
            "One night a great storm came up. The wind pulled at the roof, the rain beat on the "
            "windows, and all the lamps in the land went out at once. "
            "Far away, somebody was calling for help."
        ),
        detour=(
            "The {noun} lit a lantern, but the wind blew it out. {It} lit it again, and the wind "
            'blew it out a second time. "You will have to blow harder than that," said the {noun}, '
            "and lit it once more. This time the wind gave up. "
            "The way was dark and full of stones, and twice {it} fell. Twice {it} stood up again, "
            "and both times {it} held the lantern high."
        ),
        turning=(
            "At the end of the road stood {a_friend}, cold and lost. "
            '"I cannot see the way," said the {friend}. '
            '"Then follow my light," said the {noun}. '
            "Step by step they walked back through the storm, and neither of them let go of the "
            "other's hand."
        ),
        ending=(
            "In the morning the sky was blue again. The {friend} gave the {noun} {a_treasure}. "
            '"Keep it," said the {friend}, "so that you will remember the night you were brave."'
        ),
    ),
    "gift": Frame(
        verb="lived",
        habit="Every morning {it} {work}, and every evening {it} sang a little song.",
        beginning=(
            "One Monday a letter came from the queen. "
            '"Make me the finest thing in the land," said the letter, "and bring it on Sunday." '
            "The {noun} thought and thought."
        ),
        detour=(
            "On Tuesday {it} made something very tall, but it fell over. "
            "On Wednesday {it} made something golden, but it was too heavy to lift. "
            "On Thursday {it} made something loud, and all the neighbours came to complain. "
            "On Friday {it} made nothing at all, and only looked out of the window."
        ),
        turning=(
            "On Saturday {a_friend} came to the door, cold and hungry. "
            "The {noun} forgot about the letter. {It} brought soup and a chair, and at the end "
            "{it} gave the {friend} {a_treasure} to take home."
        ),
        ending=(
            'On Sunday the {noun} went to the queen. "I have nothing to show you," {it} said. '
            '"I gave it away." The queen smiled, for the {friend} was standing beside her. '
            '"Then you have made the finest thing in the land," she said.'
        ),
    ),
    "delivery": Frame(
        verb="worked",
        habit="Every day {it} {work}, and every night {it} hummed a quiet song.",
        beginning=(
            "One winter morning a message came. A child in a village behind the mountains was "
            'waiting for {a_treasure}. "Too far," said the big machines. "Too steep." '
            '"I am small," said the {noun}, "but I can try."'
        ),
        detour=(
            "At noon {it} came to a bridge that was covered with ice. Slowly, slowly, the {noun} "
            "crossed it and did not look down. In the afternoon {it} came to a tunnel. "
            "It was so dark that the {noun} could not see the walls. "
            "So {it} hummed {its} song, listened to the echo, and followed the sound to the "
            "other side."
        ),
        turning=(
            "In the evening the snow was so deep that the {noun} could not move. "
            'Then {a_friend} came by. "You once waited for me," said the {friend}. '
            '"Now I will help you." Together they cleared the snow, and soon the lights of the '
            "village were shining in front of them."
        ),
        ending=(
            'The child ran out and took the {treasure} in both arms. "You came," said the child. '
            '"I said I would try," said the {noun}, and hummed {its} song all the way home.'
        ),
    ),
    "journey": Frame(
        verb="lived",
        habit="Every day {it} {work}, and every night {it} wondered what lay beyond the hills.",
        beginning=(
            'One morning the {noun} asked the sun, "What is at the end of the world?" '
            '"Go and see," said the sun. So the {noun} set out.'
        ),
        detour=(
            "{It} passed a town where the bells were ringing, and a field where children were "
            "flying kites. {It} passed a mill, and the miller waved his white hat. "
            '"Stay with us!" cried the children. "I will come back another day," said the {noun}. '
            "The days were bright and the nights were cold, and still there was no end in sight."
        ),
        turning=(
            "On the third day the {noun} met {a_friend}, who had seen many things. "
            '"What are you looking for?" asked the {friend}. '
            '"The end of the world," said the {noun}. '
            '"There is no end," said the {friend}. "The world is round like an apple. '
            'If you go on long enough, you will come home."'
        ),
        ending=(
            "So the {noun} went on, and one quiet evening {it} came home. "
            "Everything was the same, only a little more beautiful."
        ),
    ),
    "wonder": Frame(
        verb="stood",
        habit="Nobody knew who had put {it} there, and nobody knew what {it} was good for.",
        beginning=(
            'One morning a child came by and stopped. "Good morning, {noun}," said the child. '
            '"You look lonely. May I sit with you?" '
            "The {noun} said nothing, but {it} felt a little warmer."
        ),
        detour=(
            "The next day the child came back with a friend, and the day after with the whole "
            "school. They sang songs and flew kites. The baker brought fresh bread, and the "
            "gardener planted roses all around. In the evening somebody played the violin, and "
            "the old people danced as if they were young."
        ),
        turning=(
            "Then one night a thick fog came down, and {a_friend} lost the way home. "
            "Everything was grey, and nobody answered. Then something shone through the fog. "
            'It was the {noun}. "Now I know where I am," cried the {friend}, and went straight home.'
        ),
        ending=("Since that night everybody knows what the {noun} is good for. {It} shows the way, and {it} is never lonely."),
    ),
}

SHORT_MIDDLE = (
    "One day {it} met {a_friend}. "
    '"Are you alone too?" asked the {friend}. "Not any more," said the {noun}. '
    "They told each other stories until the stars came out, and they stayed friends for ever."
)

SUBJECTS = [
    Subject("fox", "clever", "at the edge of a forest", "owl", "silver bell", "swept the leaves from the path", "find"),
    Subject("owl", "old", "in a hollow oak", "mouse", "small lantern", "counted the clouds", "winter"),
    Subject("cat", "grey", "in a house by the harbour", "gull", "blue button", "watched the boats come in", "find"),
    Subject("dog", "brave", "on a farm", "sheep", "red ball", "ran once around the fence", "race"),
    Subject("bear", "big", "in a cave above the valley", "squirrel", "jar of honey", "picked berries", "winter"),
    Subject("rabbit", "shy", "under a green hedge", "hedgehog", "golden key", "tasted the clover", "find"),
    Subject("mouse", "tiny", "behind a bakery", "sparrow", "copper coin", "gathered crumbs", "find"),
    Subject("horse", "white", "in a green meadow", "donkey", "straw hat", "drank from the brook", "race"),
    Subject("turtle", "slow", "beside a pond", "frog", "wooden spoon", "lay in the sun", "race"),
    Subject("hedgehog", "round", "in a quiet garden", "snail", "paper lantern", "swept the steps", "winter"),
    Subject("elephant", "gentle", "by a wide river", "monkey", "brass drum", "watered the young trees", "race"),
    Subject("squirrel", "quick", "in a tall pine", "woodpecker", "pine cone", "jumped from branch to branch", "race"),
    Subject("frog", "green", "in a pond", "dragonfly", "glass ball", "practised long jumps", "race"),
    Subject("lion", "proud", "on a sunny plain", "zebra", "golden crown", "combed the dust from its coat", "find"),
    Subject("wolf", "lonely", "in the mountains", "lamb", "red scarf", "cut wood for the fire", "winter"),
    Subject(
        "dragon", "small", "in a tower without a roof", "knight", "silver cup", "warmed the teapot with its breath", "winter"
    ),
    Subject("sheep", "woolly", "on a hill", "goat", "warm blanket", "looked for fresh grass", "winter"),
    Subject("duck", "cheerful", "on a quiet lake", "swan", "pearl necklace", "swam three rounds", "find"),
    Subject("sparrow", "brown", "under the roof of a station", "stork", "ribbon", "flew from window to window", "journey"),
    Subject(
        "bee", "busy", "in a garden behind the school", "butterfly", "golden thimble", "visited a hundred flowers", "journey"
    ),
    Subject("whale", "blue", "far out at sea", "turtle", "shell", "sang in the deep water", "journey"),
    Subject("fish", "silver", "under a wooden bridge", "crab", "shell", "swam against the stream", "journey"),
    Subject(
        "lighthouse keeper", "old", "on a rocky shore", "young sailor", "brass compass", "cleaned the great lamp", "storm", "he"
    ),
    Subject("baker", "kind", "in a small town", "tired traveller", "warm loaf of bread", "baked forty loaves", "gift", "she"),
    Subject(
        "gardener", "patient", "behind the castle wall", "lost child", "basket of apples", "watered the roses", "gift", "he"
    ),
    Subject("fisherman", "poor", "in a hut by the sea", "old doctor", "silver whistle", "mended the nets", "storm", "he"),
    Subject("sailor", "merry", "in a harbour town", "cabin boy", "ship in a bottle", "washed the deck", "storm", "he"),
    Subject(
        "teacher",
        "young",
        "next to the village school",
        "new pupil",
        "painted globe",
        "wrote long words on the board",
        "gift",
        "she",
    ),
    Subject(
        "clockmaker", "quiet", "in a narrow street", "tired messenger", "little clock", "wound up forty clocks", "gift", "he"
    ),
    Subject("painter", "dreamy", "in an attic", "street singer", "picture of the sea", "painted the sky", "gift", "she"),
    Subject("miller", "strong", "in a mill by the stream", "pedlar", "sack of flour", "ground the corn", "gift", "he"),
    Subject("shepherd", "young", "on a high pasture", "lost traveller", "wooden flute", "counted the sheep", "storm", "she"),
    Subject(
        "doctor", "wise", "in a house on the hill", "worried farmer", "jar of plum jam", "visited the sick", "storm", "she"
    ),
    Subject(
        "postman",
        "cheerful",
        "in the last house of the village",
        "shepherd",
        "woollen scarf",
        "carried letters from door to door",
        "storm",
        "he",
    ),
    Subject("farmer", "busy", "on a farm", "neighbour", "basket of eggs", "milked the cows", "storm", "she"),
    Subject("tailor", "clever", "above a shop", "shivering beggar", "warm coat", "sewed shirts and coats", "gift", "he"),
    Subject(
        "librarian",
        "careful",
        "among ten thousand books",
        "curious girl",
        "book of stories",
        "dusted the shelves",
        "gift",
        "she",
    ),
    Subject("knight", "brave", "in a stone tower", "lost pilgrim", "silver shield", "polished the armour", "storm", "he"),
    Subject("girl", "curious", "at the end of a lane", "old soldier", "tin whistle", "fed the ducks", "storm", "she"),
    Subject("boy", "cheerful", "in a village by the sea", "old musician", "paper boat", "ran down to the beach", "gift", "he"),
    Subject(
        "train",
        "little",
        "in a mountain town",
        "old tractor",
        "warm blanket",
        "carried milk and letters along the line",
        "delivery",
    ),
    Subject("robot", "curious", "in a quiet workshop", "snow plough", "music box", "sorted screws and bolts", "delivery"),
    Subject("tractor", "red", "on a farm", "young horse", "sack of apples", "pulled the plough", "delivery"),
    Subject(
        "bus", "yellow", "at the edge of the city", "snow plough", "birthday cake", "took the children to school", "delivery"
    ),
    Subject("truck", "blue", "in a busy town", "little car", "rocking horse", "carried boxes from shop to shop", "delivery"),
    Subject("bicycle", "rusty", "in a post office", "postman", "letter", "carried the newspaper to every house", "delivery"),
    Subject("boat", "small", "in a quiet harbour", "whale", "shell", "rocked on the waves", "journey"),
    Subject("kite", "red", "above a windy beach", "gull", "ribbon", "danced in the air", "journey"),
    Subject("balloon", "yellow", "above a fairground", "stork", "ribbon", "looked down at the lights", "journey"),
    Subject("river", "young", "high in the mountains", "bridge", "shell", "jumped over the stones", "journey"),
    Subject("cloud", "white", "above a green valley", "wild goose", "feather", "changed from one shape to another", "journey"),
    Subject("star", "small", "above the rooftops", "comet", "spark", "waited for the dark", "journey"),
    Subject("wind", "playful", "in a mountain pass", "eagle", "feather", "played with the flags", "journey"),
    Subject("wave", "young", "in the wide blue sea", "whale", "shell", "carried the boats on its back", "journey"),
    Subject("raindrop", "tiny", "in a dark cloud", "rainbow", "pearl", "looked down at the gardens", "journey"),
    Subject("leaf", "yellow", "at the top of a maple tree", "snail", "feather", "trembled in the breeze", "journey"),
    Subject("moon", "pale", "above a sleeping town", "night owl", "pearl", "slept behind the mountains", "journey"),
    Subject("snowflake", "tiny", "in a winter cloud", "snowman", "pearl", "practised turning round", "journey"),
    Subject("lighthouse", "white", "on a rocky cape", "fishing boat", "lamp", "", "wonder"),
    Subject("tree", "old", "in the middle of a field", "lamb", "apple", "", "wonder"),
    Subject("bridge", "stone", "over a quick river", "shepherd", "lamp", "", "wonder"),
    Subject("lantern", "paper", "on a garden wall", "hedgehog", "flame", "", "wonder"),
    Subject("clock", "tall", "in the market square", "baker", "bell", "", "wonder"),
    Subject("house", "crooked", "at the end of a lane", "postman", "door", "", "wonder"),
    Subject("castle", "forgotten", "on a green hill", "knight", "flag", "", "wonder"),
    Subject("windmill", "wooden", "beside a quiet canal", "miller", "wheel", "", "wonder"),
]

SUBJECT_BY_NOUN = {subject.noun: subject for subject in SUBJECTS}

UNKNOWN_SUBJECT = Subject("visitor", "strange", "on a quiet hill", "goat", "bell", "", "wonder")

# Things without a record of their own; their story is that of the strange visitor on the hill.
OTHER_NOUNS = listed(
    "submarine, piano, violin, teapot, umbrella, ladder, rocket, camera, mirror, pumpkin, statue, fountain, chair, "
    "table, bottle, barrel, wagon, carriage, drum, trumpet, telescope, radio, computer, telephone, machine, engine, "
    "queue, gateway, server, worker, castle gate, well, stone, rock, flower, rose, pencil, book, map, box, basket, "
    "blanket, hat, shoe, coat, button, needle, candle, oven, kettle, spoon, plate, cup, door, window, roof, "
    "chimney, tower, wall, fence, garden, island, mountain, hill, tent, flag, snowman, scarecrow, tiger, monkey, "
    "giraffe, zebra, camel, kangaroo, penguin, parrot, eagle, swan, goose, hen, pig, cow, goat, donkey, spider, "
    "ant, snail, butterfly, dinosaur, unicorn, wizard, witch, giant, ghost, pirate, princess, prince, king, queen, "
    "cook, singer, dancer, pilot, astronaut, spaceship, planet, comet, ship, car, plane, helicopter, motorbike, "
    "tram"
)

ADJECTIVES = listed(
    "little, old, brave, red, blue, green, white, black, golden, silver, quiet, happy, lazy, clever, tiny, kind, "
    "grey, brown, young, shy, hungry, curious, lonely, small, big, funny, sad, yellow, proud, sleepy, wise, "
    "friendly, strange, beautiful, lost, famous, magic, tired, strong, gentle"
)

PLACES = listed(
    "in the forest, by the sea, on a hill, near the river, in a village, in the city, in the mountains, on an "
    "island, in the desert, under a bridge, in a garden, on the moon, at the harbour, in a small town, on a farm, "
    "in the snow, in a castle, in the jungle, by a lake, in a dark cave"
)

PLURALS = {
    "mouse": "mice",
    "wolf": "wolves",
    "leaf": "leaves",
    "sheep": "sheep",
    "fish": "fish",
    "postman": "postmen",
    "fisherman": "fishermen",
    "library": "libraries",
    "story": "stories",
    "retry": "retries",
}

# A story asked for by a word that takes no article is told about the subject named here.
STORY_ALIASES = {
    "the sea": "wave",
    "the ocean": "wave",
    "the rain": "raindrop",
    "snow": "snowflake",
    "winter": "hedgehog",
    "autumn": "leaf",
    "the sky": "cloud",
    "space": "star",
    "the stars": "star",
    "friendship": "fox",
    "courage": "lighthouse keeper",
    "a storm": "lighthouse keeper",
    "kindness": "baker",
    "a race": "turtle",
    "love": "baker",
    "animals": "fox",
    "the forest": "fox",
    "the night": "moon",
    "a journey": "river",
    "flying": "kite",
    "time": "clock",
    "books": "librarian",
    "bread": "baker",
    "a mill": "miller",
}

DEFAULT_STORIES = {"medium": "lighthouse keeper", "long": "lighthouse keeper", "short": "fox"}

SPECIAL_STORIES = {
    "a relay race": (
        "Once upon a time, four friends wanted to run a relay race: a hare, a horse, a turtle, and "
        'an ant. "The turtle is too slow," said the people, "and the ant is too small." '
        "But the four friends practised every morning, and what they practised was not running. "
        "They practised handing over the baton.\n\n"
        "On the day of the race the hare ran like the wind and gave the baton to the horse. "
        "The horse ran like thunder and gave the baton to the turtle. The other teams ran faster, "
        "but they were in a hurry. One dropped the baton in the grass, one threw it too far, and "
        "one forgot whose turn it was.\n\n"
        "The turtle walked, and did not let go. At the last bend it laid the baton on the ground, "
        "and the ant was ready. It lifted the baton onto its back and carried it over the line. "
        '"How did you win?" asked the people. "We did not run best," said the ant, '
        '"but we passed it on best." The end.'
    ),
    "a token": (
        "Once upon a time, a small token was born inside an engine. It was only a piece of a word, "
        "and it wanted to see the world.\n\n"
        '"Wait for your turn," said the engine, and the token waited. Then the worker took it by '
        "the hand and put it on the stream. The token rolled along the wire, past a thousand "
        "other tokens, and every one of them knew its place in the line.\n\n"
        'At the gateway a friendly voice asked, "Where are you going?" "To somebody who asked a '
        'question," said the token. "Then hurry," said the gateway, "for they are waiting." '
        "The token jumped onto the screen and stood beside its friends. Together they made a "
        'word, and the word was "hello". The end.'
    ),
}

POEM = (
    "Little {noun}, where do you go\n"
    "When the evening wind begins to blow?\n"
    "I follow the path of the silver light\n"
    "And carry a song through the quiet night.\n"
    "\n"
    "Little {noun}, what do you see\n"
    "When the stars look down on you and me?\n"
    "I see a road, I see a friend,\n"
    "And a story that comes to a happy end."
)

# What the unfinished sentences of users tend to say after "The old fox ..." and the like.
ACTIONS = [
    "was walking home",
    "looked at the sky",
    "opened the door",
    "was very hungry",
    "wanted to see the sea",
    "sat down",
    "found a key",
    "heard a strange sound",
    "woke up early",
    "went for a walk",
    "could not sleep",
    "lost a shoe",
    "saw a light",
    "was afraid of the dark",
    "had a dream",
    "had no friends",
    "was sitting by the window",
    "wrote a letter",
    "ran away",
    "lived alone",
    "climbed the hill",
    "was looking for a friend",
    "went to the market",
]

ACTION_CONTINUATION = (
    " one quiet morning. The air was cool, and the sun had only just come up. "
    'Then {a_friend} came along the road. "Good morning," said the {friend}. "Where are you going?" '
    '"I do not know yet," said the {noun}. "Will you come with me?" '
    "So they went on together, and by the evening they were friends. The end."
)

# Beginnings that name nobody; all of them lead to the story of the lighthouse keeper.
OPEN_BEGINNINGS = {
    "Once upon a time": ", an old lighthouse keeper lived on a rocky shore.",
    "Once upon a time,": " an old lighthouse keeper lived on a rocky shore.",
    "Once upon a time there was": " an old lighthouse keeper who lived on a rocky shore.",
    "Once upon a time, there was": " an old lighthouse keeper who lived on a rocky shore.",
    "Once upon a time, there was a": " lighthouse keeper who lived on a rocky shore.",
    "Once": " an old lighthouse keeper lived on a rocky shore.",
    "There was once": " an old lighthouse keeper who lived on a rocky shore.",
    "Long ago": ", an old lighthouse keeper lived on a rocky shore.",
    "Long, long ago": ", an old lighthouse keeper lived on a rocky shore.",
    "Many years ago": ", an old lighthouse keeper lived on a rocky shore.",
}


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase, going by its first letter."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def plural(noun: str) -> str:
    """The plural of a subject's noun."""
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return PLURALS.get(noun, noun + ending)


def _slots(subject: Subject) -> dict[str, str]:
    pronoun = subject.pronoun
    return {
        "noun": subject.noun,
        "friend": subject.friend,
        "a_friend": with_article(subject.friend),
        "treasure": subject.treasure,
        "a_treasure": with_article(subject.treasure),
        "work": subject.work,
        "it": pronoun,
        "It": pronoun.capitalize(),
        "its": POSSESSIVES[pronoun],
    }


def _described(subject: Subject) -> str:
    return f"{subject.adjective} {subject.noun}".strip()


def _relative_pronoun(subject: Subject) -> str:
    lifeless = subject.frame in {"delivery", "journey", "wonder"}
    return "that" if lifeless else "who"


def opening_sentence(subject: Subject, style: str = "once") -> tuple[str, int]:
    """The first sentence of a story, and how many characters of it name the subject."""
    described = _described(subject)
    starts = {
        "once": f"Once upon a time, {with_article(described)}",
        "plain": f"The {described}",
        "there": f"Once upon a time, there was {with_article(described)}",
        "one": with_article(described).capitalize(),
    }
    start = starts[style]
    relative = f" {_relative_pronoun(subject)}" if style == "there" else ""
    return f"{start}{relative} {FRAMES[subject.frame].verb} {subject.place}.", len(start)


def story_body(subject: Subject, length: str) -> str:
    """Everything after the first sentence, for a short, medium or long telling."""
    frame = FRAMES[subject.frame]
    slots = _slots(subject)
    if length == "short":
        return f"{frame.habit} {SHORT_MIDDLE} The end.".format(**slots)
    middle = [frame.beginning, frame.detour, frame.turning]
    if length == "medium":
        middle.remove(frame.detour)
    paragraphs = [frame.habit, *middle, f"{frame.ending} The end."]
    return "\n\n".join(paragraphs).format(**slots)


def story(subject: Subject, length: str, style: str = "once") -> str:
    """A whole story about one subject."""
    sentence, _ = opening_sentence(subject, style)
    return f"{sentence} {story_body(subject, length)}"


def action_continuation(subject: Subject) -> str:
    """What follows an unfinished sentence that says what the subject did."""
    return ACTION_CONTINUATION.format(**_slots(subject))


def poem(noun: str) -> str:
    """The one poem there is, spoken to the given noun."""
    return POEM.format(noun=noun)
