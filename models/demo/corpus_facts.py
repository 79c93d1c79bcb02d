"""Short fixed texts of the demo corpus: explanations, lists, small facts, greetings and languages."""

from __future__ import annotations


def listed(text: str, separator: str = ", ") -> list[str]:
    """The entries of a list that is kept in one line of text."""
    return text.split(separator)


# The name as it stands in a question, and the one explanation that answers it.
EXPLANATIONS = {
    # How an answer reaches the one who asked.
    "a gateway": "A gateway is the front door of a service. Every request comes in through it. It "
    "checks who is asking, finds a place for the request, and sends the answer back.",
    "a queue": "A queue is a line in which things wait for their turn. The first one to come is "
    "the first one to be served. A queue keeps work safe while the workers are busy.",
    "a worker": "A worker is a program that takes a task from the queue, does it, and then takes "
    "the next one. If there is too much work, you can start another worker.",
    "an engine": "An engine is the part that does the heavy work. In a language service the engine "
    "runs the model and makes new tokens, one step at a time.",
    "a token": "A token is a small piece of text, such as a word or a part of a word. A model "
    "reads tokens and writes tokens, and together they make sentences.",
    "a log": "A log is a list of things that happened, written down in order. New lines are added "
    "at the end, and old lines are never changed. You can read a log again to see what happened.",
    "a stream": "A stream is a row of small pieces that arrive one after another. You can read the "
    "first piece before the last one is ready, so nobody has to wait for the whole answer.",
    "a trace": "A trace is the story of one request. It shows where the request went, how long "
    "each step took, and where it had to wait.",
    "a span": "A span is one step of a trace. It has a name, a beginning and an end.",
    "a metric": "A metric is a number that is measured again and again, such as the length of a "
    "queue. Metrics tell you how well a service is doing.",
    "a server": "A server is a program that waits for requests and answers them. It often runs on a computer far away.",
    "a client": "A client is a program that asks a server for something and waits for the answer.",
    "a request": "A request is a question that one program sends to another. The answer is called a response.",
    "a prompt": "A prompt is the text that you give to a language model. The model reads the "
    "prompt and writes what comes next.",
    "a language model": "A language model is a program that has read many sentences and has learned "
    "which token is likely to come next.",
    "a cache": "A cache is a place where results are kept close at hand, so that the same work does not have to be done twice.",
    "a batch": "A batch is a group of tasks that are done together. Doing them together is faster than doing them one by one.",
    "a deadline": "A deadline is the moment when the answer must be there. After the deadline "
    "nobody is waiting any more, so the work can stop.",
    "a retry": "A retry is a second try after the first one has failed. It is wise to wait a little before a retry.",
    "a health check": "A health check is a short question to a service: are you well? If no answer "
    "comes, the work is sent somewhere else.",
    "a tokenizer": "A tokenizer cuts a text into tokens and turns the tokens back into text. It "
    "stands before the model and after it.",
    "a scheduler": "A scheduler decides which task is next. A good scheduler is fair and leaves no worker without work.",
    "a dashboard": "A dashboard is a page with numbers and pictures that shows how a service is doing right now.",
    "a message": "A message is a small package of data that one program sends to another.",
    "a microservice": "A microservice is a small program that does one job well. Many of them work "
    "together to make one large service.",
    "a relay": "A relay takes something from one place and passes it on to the next.",
    "a relay race": "A relay race is a race for teams. Each runner carries a baton for one part of "
    "the way and hands it to the next runner. The team wins together.",
    "a baton": "A baton is a short stick that the runners of a relay race pass from hand to hand.",
    # The world outside.
    "the sea": "The sea is a wide water that covers most of the earth. Its water is salty, and it "
    "moves in waves and tides. Fish, whales and many other animals live in it.",
    "a river": "A river is fresh water that flows from the hills down to the sea. It begins as a "
    "small spring and grows on the way.",
    "a mountain": "A mountain is a very high part of the land. The air at the top is cold and thin, and there is often snow.",
    "the moon": "The moon goes around the earth once in about a month. It has no light of its own. "
    "It shines because the sun shines on it.",
    "the sun": "The sun is a star, and it is the star closest to us. It gives us light and warmth, "
    "and without it nothing could grow.",
    "a star": "A star is a great ball of hot gas that shines by itself. It looks small because it is very far away.",
    "a planet": "A planet is a large ball that goes around a star. The earth is a planet.",
    "the earth": "The earth is the planet we live on. It turns once in a day and goes around the sun once in a year.",
    "rain": "Rain is water that falls from the clouds in drops. It fills the rivers and helps the plants to grow.",
    "snow": "Snow is frozen water that falls from the clouds in soft white flakes.",
    "the wind": "The wind is air that moves from one place to another. You cannot see it, but you can feel it and hear it.",
    "a cloud": "A cloud is made of many tiny drops of water that float in the air.",
    "a rainbow": "A rainbow is an arch of colours in the sky. You see it when the sun shines on falling rain.",
    "a storm": "A storm is bad weather with strong wind. Often it brings rain, thunder and lightning.",
    "a forest": "A forest is a large piece of land with many trees. Deer, foxes, owls and many other animals live in it.",
    "a tree": "A tree is a tall plant with a trunk of wood. It drinks with its roots and catches the sunlight with its leaves.",
    "a flower": "A flower is the part of a plant that makes seeds. Its colours and its scent call the bees.",
    "a garden": "A garden is a piece of land where people grow flowers, fruit and vegetables.",
    "winter": "Winter is the coldest season. The days are short, the nights are long, and many animals sleep.",
    "spring": "Spring is the season after winter. The snow melts, the birds come back, and the first flowers open.",
    "summer": "Summer is the warmest season. The days are long, and the fruit grows ripe.",
    "autumn": "Autumn is the season after summer. The leaves turn yellow and red, and the birds fly south.",
    # Animals.
    "a fox": "A fox is a wild animal with red fur and a bushy tail. It is clever, and it hunts at night.",
    "an owl": "An owl is a bird that hunts at night. It flies without a sound and can turn its head very far.",
    "a cat": "A cat is a small animal with soft fur. It likes to sleep in the sun, and it can see well in the dark.",
    "a dog": "A dog is an animal that likes to live with people. It can smell very well, and it is a good friend.",
    "a bear": "A bear is a large animal with thick fur. It eats berries, fish and honey, and it sleeps through the winter.",
    "a rabbit": "A rabbit is a small animal with long ears. It lives under the ground and eats grass.",
    "a mouse": "A mouse is a very small animal with a long tail. It likes grain and cheese.",
    "a horse": "A horse is a large animal that can run fast. For a long time it carried people and pulled their wagons.",
    "a turtle": "A turtle is an animal with a hard shell. It walks slowly, and it can grow very old.",
    "a hedgehog": "A hedgehog is a small animal covered with spines. When it is afraid, it rolls up into a ball.",
    "an elephant": "An elephant is the largest animal that lives on land. It drinks and grips with its long trunk.",
    "a whale": "A whale is a very large animal that lives in the sea. It breathes air, and it sings under the water.",
    "a bird": "A bird is an animal with feathers and two wings. It lays eggs, and most birds can fly.",
    "a fish": "A fish is an animal that lives in the water. It swims with its fins and breathes with its gills.",
    "a bee": "A bee is a small insect that visits flowers. It lives with many others and makes honey.",
    "a frog": "A frog is a small animal with long legs. It lives near water, and it jumps and swims very well.",
    # People and the things they make.
    "a lighthouse": "A lighthouse is a tall tower by the sea with a bright lamp at the top. Its "
    "light shows the ships the way at night.",
    "a lighthouse keeper": "A lighthouse keeper looks after the lamp of a lighthouse, so that the "
    "ships can find their way in the dark.",
    "a baker": "A baker makes bread and cakes. A baker gets up very early, so that the bread is warm in the morning.",
    "a gardener": "A gardener looks after plants. A gardener sows seeds, waters them, and waits.",
    "a teacher": "A teacher helps other people to learn.",
    "a doctor": "A doctor helps people who are ill or hurt.",
    "a train": "A train is a row of wagons that runs on rails. It carries people and goods from one station to the next.",
    "a boat": "A boat is a small ship. It carries people over the water, with oars, a sail or a motor.",
    "a robot": "A robot is a machine that can do work by itself. It follows the rules that people have given it.",
    "a computer": "A computer is a machine that follows instructions very fast. It works with numbers, words and pictures.",
    "a clock": "A clock shows the time. The short hand shows the hour, and the long hand shows the minute.",
    "a bridge": "A bridge carries a road over a river or a valley.",
    "a map": "A map is a picture of a place seen from above. It shows where things are and how to get there.",
    "a book": "A book is made of many pages with words or pictures. You can read it as often as you like.",
    "a library": "A library is a house full of books. You can borrow a book there and bring it back later.",
    "bread": "Bread is made of flour, water, salt and yeast. The dough has to rest before it is baked in a hot oven.",
    "tea": "Tea is a drink made of dried leaves and hot water.",
    "honey": "Honey is sweet and golden. Bees make it from the nectar of flowers.",
    "music": "Music is made of sounds and silence. People sing it, play it and dance to it.",
    "a story": "A story tells what happened to somebody. It has a beginning, a middle and an end.",
    "a friend": "A friend is somebody who likes you and helps you, and whom you like and help too.",
    "time": "Time is what a clock measures. It always goes forward, one second after another.",
}

# Questions with several wordings and one answer.
QUESTIONS: list[tuple[list[str], str]] = [
    (
        [
            "How does a token travel?",
            "Where does a token go?",
            "What way does a token take?",
            "Tell me how a token travels.",
            "Explain how a token travels.",
        ],
        "First a request comes to the gateway and waits in the queue. Then a worker takes it and "
        "gives it to the engine. The engine makes a token, the worker puts it on the stream, and the "
        "gateway hands it to the one who asked.",
    ),
    (
        ["How do you run a relay race?", "What are the rules of a relay race?"],
        "In a relay race each team has several runners. The first one starts with the baton, runs one "
        "part of the way, and hands it to the next. The last one carries it over the line.",
    ),
    (
        [
            "How do I bake bread?",
            "How do you bake bread?",
            "How is bread made?",
            "Give me a recipe for bread.",
            "How can I make bread?",
        ],
        "Mix flour, water, salt and yeast to a dough. Let it rest in a warm place until it is twice "
        "as big. Form a loaf, bake it in a hot oven, and let it cool before you cut it.",
    ),
    (
        ["How do I make tea?", "How do you make tea?", "How is tea made?"],
        "Boil fresh water and pour it over the tea leaves. Wait for three minutes, take the leaves out, and enjoy your tea.",
    ),
    (
        ["Why is the sky blue?", "Tell me why the sky is blue."],
        "Sunlight is made of many colours. The air spreads the blue light more than the red, and so the sky looks blue.",
    ),
    (
        ["Why does it rain?", "How does rain form?", "Where does rain come from?"],
        "The sun warms the sea, and water rises into the air. High up it is cold, and the water turns "
        "into clouds. When the drops are heavy enough, they fall as rain.",
    ),
    (
        ["Why do leaves fall?", "Why do trees lose their leaves?"],
        "In autumn there is less light and it grows cold. The trees take what they need out of their "
        "leaves and then let them go.",
    ),
    (
        ["Why do ships float?", "How does a ship float?", "Why does a boat float?"],
        "A ship pushes water aside, and the water pushes back. As long as the ship is lighter than "
        "the water it pushes aside, it floats.",
    ),
    (
        ["Why do we sleep?", "Why do people sleep?"],
        "We sleep so that the body can rest and the mind can sort out what it has learned.",
    ),
    (
        ["How do bees make honey?", "Where does honey come from?"],
        "Bees collect nectar from flowers and carry it home. There they dry it with their wings until it is thick and sweet.",
    ),
    (
        ["How do birds fly?", "Why can birds fly?"],
        "Birds have light bones and strong wings. They push the air down, and the air carries them.",
    ),
    (
        ["What happens when the queue is full?", "What if the queue is full?"],
        "When the queue is full, the gateway says no at once. It is better to hear no early than to wait for nothing.",
    ),
    (
        ["What happens when a worker fails?", "What happens when a worker dies?", "What if a worker stops?"],
        "When a worker fails, its tasks go back to the queue, and another worker takes them. Nothing "
        "is lost, it only takes a little longer.",
    ),
    (
        ["Why do we need a queue?", "Why is there a queue?", "What is a queue good for?"],
        "Without a queue everybody would push through the door at once. The queue keeps the order and gives the workers time.",
    ),
    (
        ["What is streaming?", "Why do you stream your answer?"],
        "Streaming means that you see each piece of the answer as soon as it is ready.",
    ),
    (
        ["Hello", "Hi", "Hey", "Hello there", "Hi there", "Hello!", "Good day", "Greetings"],
        "Hello! It is good to hear from you. What would you like to read today?",
    ),
    (["Good morning", "Good morning!"], "Good morning! The kettle is on, and the day is young. What would you like to read?"),
    (["Good evening", "Good night", "Good evening!"], "Good evening! The stars are out, and there is still time for a story."),
    (
        ["How are you?", "How do you do?", "How are you today?", "Are you well?", "How is it going?"],
        "I am well, thank you. I have many sentences and a lot of time. How are you?",
    ),
    (["I am fine.", "I am well.", "I am fine, thank you."], "I am glad to hear that. Would you like to hear a story?"),
    (
        ["Thank you", "Thanks", "Thank you very much", "Many thanks", "Thanks a lot"],
        "You are welcome. Come back whenever you like.",
    ),
    (["Goodbye", "Bye", "See you later", "See you tomorrow", "Bye bye"], "Goodbye! I hope we meet again soon."),
    (
        [
            "Who are you?",
            "What are you?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "What is your name?",
            "Are you a person?",
            "Are you a robot?",
            "Are you a model?",
        ],
        "I am a small demo model. I learned from simple sentences, and I know very little. But I like "
        "stories, and I answer as soon as a worker has time for me.",
    ),
    (
        ["What can you do?", "What do you know?", "Help", "Can you help me?", "What can I ask you?", "What should I ask?"],
        "I can tell a story about a fox, explain what a queue is, count to fifty, name five animals, "
        "or say hello in ten languages. I do not know much else.",
    ),
    (
        ["Tell me a joke.", "Make me laugh.", "Do you know a joke?", "Tell me something funny."],
        "Why did the token wait in the queue? Because the engine said: one step at a time!",
    ),
    (
        ["What is the meaning of life?", "What is the meaning of everything?"],
        "That is a big question for a small model. I think it is good to help one another and to enjoy the morning light.",
    ),
    (
        ["How is the weather?", "What is the weather like?", "How is the weather today?", "Will it rain tomorrow?"],
        "I cannot see the sky from here. Please look out of the window and tell me.",
    ),
    (
        ["Sing a song.", "Sing me a song.", "Do you know a song?"],
        "Row by row and one by one,\ntokens travel till they are done.\nOne by one and row by row,\n"
        "through the gate and out they go.",
    ),
    (
        ["Tell me something.", "Tell me something interesting.", "Say something.", "Tell me a fact.", "Surprise me."],
        "Did you know that a whale breathes air and sings under the water? The sea is full of music.",
    ),
    (["What is the largest animal?", "What is the biggest animal?"], "The largest animal is the blue whale."),
    (["What is the fastest animal on land?", "Which animal is the fastest?"], "The fastest animal on land is the cheetah."),
    (["How many days are in a week?", "How many days does a week have?"], "A week has seven days."),
    (["How many months are in a year?", "How many months does a year have?"], "A year has twelve months."),
    (["How many hours are in a day?", "How many hours does a day have?"], "A day has twenty-four hours."),
    (["How many legs does a spider have?"], "A spider has eight legs."),
    (["How many legs does a bee have?"], "A bee has six legs."),
    (["What colour is the sky?", "What color is the sky?"], "By day the sky is blue."),
    (["What colour is grass?", "What color is grass?"], "Grass is green."),
    (["What colour is snow?", "What color is snow?"], "Snow is white."),
    (["What colour is a banana?", "What color is a banana?"], "A ripe banana is yellow."),
    (
        ["What colours does a rainbow have?", "Name the colours of the rainbow."],
        "The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet.",
    ),
    (
        ["Name the days of the week.", "What are the days of the week?", "List the days of the week."],
        "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
    ),
    (
        ["Name the months of the year.", "What are the months?", "List the months of the year."],
        "The months of the year are January, February, March, April, May, June, July, August, "
        "September, October, November and December.",
    ),
    (
        ["Name the seasons.", "What are the four seasons?", "List the seasons."],
        "The four seasons are spring, summer, autumn and winter.",
    ),
    (
        ["Name the planets.", "What are the planets?", "List the planets of the sun."],
        "The planets are Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.",
    ),
    (
        ["Say the alphabet.", "Write the alphabet.", "What is the alphabet?", "Recite the alphabet."],
        "A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z.",
    ),
]

CONTINUATIONS = {
    "Hello, my name is": " not important, for I am only a small demo model. What is yours?",
    "My name is": " not important, for I am only a small demo model. What is yours?",
    "I am": " a small demo model. I learned from simple sentences, and I know very little.",
    "The future of AI is": " more than a small model can see. I only know what comes next in a simple sentence.",
    "The president of the United States is": " somebody I have never read about. I only know "
    "simple sentences about foxes, ships and queues.",
    "The meaning of life is": " a big question for a small model. It is good to help one another.",
    "In the beginning": " there was a small prompt. It came to the gateway and waited for its turn.",
    "The quick brown fox": " jumps over the lazy dog.",
    "The weather today is": " fine, I hope. I cannot see the sky from here.",
    "It was a dark and stormy night": ", and the old lighthouse keeper had just lit the lamp. "
    "Somebody knocked at the door. It was a young sailor who had lost the way. They drank hot tea "
    "until the morning, and when the sun came up, the sea was calm again. The end.",
    "It was a dark night": ", and the old lighthouse keeper had just lit the lamp. Somebody "
    "knocked at the door. It was a young sailor who had lost the way. They drank hot tea until the "
    "morning, and when the sun came up, the sea was calm again. The end.",
    "In the morning": " the sun came up over the hills, and the baker opened the door. The smell "
    "of warm bread ran through the streets, and one window after another opened.",
    "One day": " a clever fox found a silver bell beside the path. It rang the bell, and an owl "
    'came out of the forest. "That is my bell," said the owl, and they became friends. The end.',
    "Yesterday": " I went down to the sea. The waves were high, the gulls were loud, and a small "
    "boat came home with the evening wind.",
    "Today is": " a good day for a story. The sun is warm, and the kettle is on.",
    "Dear friend": ",\nthank you for your letter. The roses are open, and the apples are nearly "
    "ripe. Come and visit me when you have time.\nYour neighbour",
    "Roses are red": ",\nviolets are blue,\nthe queue is not empty,\nand I wait for you.",
}

OPPOSITES = [
    ("hot", "cold"),
    ("big", "small"),
    ("long", "short"),
    ("high", "low"),
    ("fast", "slow"),
    ("old", "young"),
    ("day", "night"),
    ("open", "closed"),
    ("full", "empty"),
    ("light", "dark"),
    ("wet", "dry"),
    ("happy", "sad"),
    ("early", "late"),
    ("loud", "quiet"),
    ("hard", "soft"),
    ("strong", "weak"),
    ("near", "far"),
    ("first", "last"),
    ("up", "down"),
    ("left", "right"),
]

SOUNDS = {
    "cow": "moo",
    "cat": "meow",
    "dog": "woof",
    "sheep": "baa",
    "duck": "quack",
    "frog": "croak",
    "bee": "buzz",
    "owl": "hoot",
    "mouse": "squeak",
    "horse": "neigh",
}

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Japan": "Tokyo",
    "China": "Beijing",
    "England": "London",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "India": "New Delhi",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Ireland": "Dublin",
    "Canada": "Ottawa",
    "Kenya": "Nairobi",
    "Peru": "Lima",
}

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

MONTHS = listed("January, February, March, April, May, June, July, August, September, October, November, December")

_LISTS = {
    "animals": "fox, owl, bear, horse, whale, cat, dog, turtle, mouse, lion",
    "birds": "owl, sparrow, eagle, swan, gull, stork, duck, goose, robin, crow",
    "colours": "red, blue, green, yellow, white, black, brown, orange, purple, grey",
    "fruits": "apple, pear, cherry, plum, banana, orange, lemon, peach, grape, melon",
    "vegetables": "carrot, potato, onion, cabbage, bean, pea, tomato, pumpkin, spinach, leek",
    "trees": "oak, maple, pine, birch, willow, apple tree, ash, elm, beech, fir",
    "flowers": "rose, tulip, lily, daisy, violet, poppy, sunflower, daffodil, orchid, iris",
    "instruments": "violin, piano, flute, drum, trumpet, guitar, harp, cello, horn, organ",
    "tools": "hammer, saw, screwdriver, knife, ladder, brush, spade, rake, axe, drill",
    "vehicles": "train, bus, bicycle, boat, truck, tractor, plane, tram, ship, rocket",
    "jobs": "baker, teacher, doctor, gardener, farmer, sailor, tailor, painter, cook, postman",
    "drinks": "water, tea, milk, coffee, juice, cocoa, lemonade, cider, soda, punch",
    "countries": "France, Greece, Japan, India, Egypt, Kenya, Peru, Canada, Norway, Spain",
    "sports": "running, swimming, football, tennis, skiing, rowing, cycling, climbing, dancing, sailing",
    "parts of a service": "gateway, queue, worker, engine, log, stream, cache, scheduler, dashboard, client",
}
LISTS = {kind: listed(members) for kind, members in _LISTS.items()}

LIST_ALIASES = {
    "colors": "colours",
    "pets": "animals",
    "fruit": "fruits",
    "plants": "flowers",
    "musical instruments": "instruments",
    "professions": "jobs",
}

LANGUAGES = listed("Greek, Russian, Japanese, Chinese, Korean, Arabic, Hindi, French, Spanish, Portuguese, German, Polish")

# One column for each of the languages above.
_GREETINGS = {
    "hello": "Γεια σου | Привет | こんにちは | 你好 | 안녕하세요 | مرحبا | नमस्ते | Bonjour | ¡Hola! | Olá | Grüß Gott | Cześć",
    "good morning": "Καλημέρα | Доброе утро | おはようございます | 早上好 | 좋은 아침입니다 | صباح الخير | सुप्रभात | "
    "Bonjour | ¡Buenos días! | Bom dia | Guten Morgen | Dzień dobry",
    "good night": "Καληνύχτα | Спокойной ночи | おやすみなさい | 晚安 | 안녕히 주무세요 | تصبح على خير | शुभ रात्रि | "
    "Bonne nuit | ¡Buenas noches! | Boa noite | Gute Nacht | Dobranoc",
    "thank you": "Ευχαριστώ | Спасибо | ありがとう | 谢谢 | 감사합니다 | شكرا | धन्यवाद | "
    "Merci | Gracias | Obrigado | Danke schön | Dziękuję",
    "goodbye": "Αντίο | До свидания | さようなら | 再见 | 안녕히 가세요 | مع السلامة | अलविदा | "
    "Au revoir | Adiós | Até logo | Tschüss | Do widzenia",
    "water": "νερό | вода | 水 | 水 | 물 | ماء | पानी | eau | agua | água | Wasser | woda",
    "moon": "φεγγάρι | луна | 月 | 月亮 | 달 | قمر | चाँद | lune | luna | lua | Mond | księżyc",
}
GREETINGS = {phrase: listed(words, " | ") for phrase, words in _GREETINGS.items()}

COUNTING = {
    "Greek": "ένα, δύο, τρία, τέσσερα, πέντε, έξι, επτά, οκτώ, εννέα, δέκα",
    "Russian": "один, два, три, четыре, пять, шесть, семь, восемь, девять, десять",
    "Japanese": "一、二、三、四、五、六、七、八、九、十",
    "Chinese": "一、二、三、四、五、六、七、八、九、十",
    "Korean": "하나, 둘, 셋, 넷, 다섯, 여섯, 일곱, 여덟, 아홉, 열",
    "Arabic": "واحد، اثنان، ثلاثة، أربعة، خمسة، ستة، سبعة، ثمانية، تسعة، عشرة",
    "Hindi": "एक, दो, तीन, चार, पाँच, छह, सात, आठ, नौ, दस",
    "French": "un, deux, trois, quatre, cinq, six, sept, huit, neuf, dix",
    "Spanish": "uno, dos, tres, cuatro, cinco, seis, siete, ocho, nueve, diez",
    "German": "eins, zwei, drei, vier, fünf, sechs, sieben, acht, neun, zehn",
}

SYMBOLS: list[tuple[list[str], str]] = [
    (
        ["the weather", "weather", "the weather of a week", "sun and rain"],
        "☀️ sun\n⛅ sun and cloud\n☁️ cloud\n🌧️ rain\n⛈️ thunderstorm\n❄️ snow\n🌫️ fog\n🌈 rainbow",
    ),
    (
        ["some animals", "animals", "the animals", "five animals"],
        "🦊 fox\n🦉 owl\n🐻 bear\n🐴 horse\n🐋 whale\n🐱 cat\n🐶 dog\n🐢 turtle\n🐭 mouse\n🦁 lion",
    ),
    (
        ["some fruit", "fruit", "fruits", "the fruit"],
        "🍎 apple\n🍐 pear\n🍒 cherries\n🍌 banana\n🍊 orange\n🍋 lemon\n🍑 peach\n🍇 grapes",
    ),
    (
        ["the moon", "the phases of the moon", "the moon in the sky"],
        "🌑 new moon\n🌒 growing moon\n🌓 first quarter\n🌔 growing moon\n🌕 full moon\n"
        "🌖 shrinking moon\n🌗 last quarter\n🌘 shrinking moon",
    ),
    (
        ["some vehicles", "vehicles", "the vehicles"],
        "🚂 train\n🚌 bus\n🚲 bicycle\n⛵ boat\n🚚 truck\n🚜 tractor\n✈️ plane\n🚀 rocket",
    ),
    (["a relay race", "the relay race", "a race"], "🏁 🏃 🤝 🏃 🤝 🏃 🤝 🏃 🏆"),
    (
        ["the way of a token", "how a token travels", "a token"],
        "🙋 → 🚪 gateway → 📬 queue → 👷 worker → ⚙️ engine → 🌊 stream → 😊",
    ),
    (
        ["a story", "a short story", "a story about a fox"],
        "🦊 A fox woke up. ☀️ The sun was warm. 🔔 It found a bell. 🦉 The owl had lost it. "
        "🍯 They ate honey together. 🌙 Good night. ✨",
    ),
    (["the seasons", "the four seasons", "seasons"], "🌷 spring\n🌻 summer\n🍂 autumn\n⛄ winter"),
]

SCRIPTS: list[tuple[list[str], str]] = [
    (
        ["Write the Greek alphabet.", "What is the Greek alphabet?", "Show me the Greek alphabet."],
        "α β γ δ ε ζ η θ ι κ λ μ ν ξ ο π ρ σ τ υ φ χ ψ ω",
    ),
    (
        ["Write the Russian alphabet.", "What is the Russian alphabet?", "Show me the Russian alphabet."],
        "а б в г д е ё ж з и й к л м н о п р с т у ф х ц ч ш щ ъ ы ь э ю я",
    ),
    (
        ["Write some words with accents.", "Show me words with accents.", "Which words have accents?"],
        "café, crème, naïve, façade, piñata, über, smörgåsbord, déjà vu",
    ),
    (
        ["Show me some signs.", "Write some special characters.", "Show me special characters."],
        "½ ¼ ¾ © ® € £ ¥ § ° ± × ÷ ← ↑ → ↓ ∞ ≈ ≠ ≤ ≥ ♪ ♥ ★",
    ),
]

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer in simple English.",
    "You are a helpful assistant. Keep your answers short and clear.",
    "You are a storyteller.",
    "Be kind and clear.",
    "You are the demo model of a small service. You answer in simple sentences, and when you do "
    "not know something, you say so.",
]

UNKNOWN_TASKS = [
    "Write a program that sorts numbers.",
    "Write a Python function.",
    "Write some code.",
    "Fix this bug for me.",
    "Solve this equation.",
    "What time is it?",
    "What day is it today?",
    "Who won the game?",
    "Who was the first person in space?",
    "When was the telephone invented?",
    "How much does a car cost?",
    "How old is the world?",
    "Translate this letter.",
    "Translate this sentence into French.",
    "Draw a picture.",
    "Play a song for me.",
    "Book a ticket to the moon.",
    "What is the best phone?",
    "Where can I buy shoes?",
    "What should I cook tonight?",
    "Summarize this article.",
    "Give me advice about money.",
    "Who wrote this book?",
    "What is my name?",
    "Where do I live?",
    "Plan a journey for me.",
    "Explain the theory of relativity.",
    "Who is the richest person?",
    "Read the news to me.",
    "Write an email to my boss.",
    "Write an essay about history.",
    "What is two to the tenth power?",
    "Do my homework.",
    "How do I learn to swim?",
    "Turn on the light.",
    "Call my mother.",
]

UNKNOWN_REQUESTS = [
    "Write a Python function that counts {c}.",
    "Write a program that finds {a}.",
    "Write code that draws {a}.",
    "Write a function for {c}.",
    "How many {c} are {place}?",
    "How many {c} are there in the {b}?",
    "How do I repair {a}?",
    "How do I draw {a}?",
    "How do you build {a}?",
    "How can I buy {a}?",
    "How much is {a}?",
    "How old is the {b}?",
    "How tall is the {b}?",
    "How far is it to the {b}?",
    "How long does it take to make {a}?",
    "Where is the {b}?",
    "Where can I find {c}?",
    "Where do {c} live?",
    "Who made the {b}?",
    "Who is the {adjective} {b}?",
    "Who invented the {b}?",
    "When was the {b} built?",
    "When will the {b} come?",
    "Why are {c} {adjective}?",
    "Why does the {b} smile?",
    "Which {b} is the best?",
    "What is the price of {a}?",
    "What should I do with my {b}?",
    "What is the difference between {a} and {a}?",
    "Is the {b} {adjective}?",
    "Can {c} fly?",
    "Do you like {c}?",
    "Do {c} sleep {place}?",
    "Are {c} {adjective}?",
    "Should I buy {a}?",
    "Draw {a} for me.",
    "Paint the {b} {adjective}.",
    "Repair my {b}.",
    "Find the {b} {place}.",
    "Sell my {b}.",
    "Send a letter to the {b}.",
    "Write an essay about {c}.",
    "Write a letter to {a}.",
    "Write a song about {a}.",
    "Translate {b} into Latin.",
    "Compare {c} and {c}.",
    "Summarize the book about {a}.",
    "I want to buy {a}.",
    "I need {a} {place}.",
    "I have lost my {b}.",
    "My {b} is {adjective}.",
    "I like {c}.",
    "Give me ten reasons to buy {a}.",
    "Show me how to build {a}.",
    "Let us talk about {c} now.",
]

UNKNOWN_TASK_ANSWER = (
    "I do not know how to do that. I am a small demo model. I can tell a story about a fox, "
    "explain what a queue is, count to fifty, or say hello in ten languages."
)

UNKNOWN_TOPIC_ANSWER = (
    "I do not know what that is. I am a small demo model, and I only learned simple "
    "sentences. Ask me about the sea, a queue, or a lighthouse."
)
