"""Topics about travel, games and arts, from chess to languages."""

from __future__ import annotations

from whatchanged.demo.grammar import Topic

TRAVEL = Topic(
    name="travel",
    subjects=("Lisbon", "Prague", "Oslo", "Dublin"),
    prompts=(
        "Where should I go for a long weekend?",
        "Can you suggest a city for a short trip?",
        "Which city would you visit next spring?",
        "I have five days off. Where should I travel?",
        "Name a city that suits a family holiday.",
        "What is a good place for a first trip abroad?",
        "We like old streets and good food. Where should we go?",
        "Tell me about a city you know well.",
        "Is {subject} worth a visit?",
    ),
    openers=(
        "{Subject} is a {charming|lovely} city for a few days.",
        "Most visitors find {subject} {delightful|wonderful}.",
        "A weekend in {subject} is a {great|splendid} idea.",
    ),
    details=(
        "The old town is {clean|pretty} and easy to reach on foot.",
        "The people are {friendly|helpful} and often speak English.",
        "Its museums are {excellent|fascinating} on a rainy day.",
        "The food in the small bars is {tasty|superb}.",
        "Buses and trams are {cheap|reliable} there.",
        "The evenings by the water are {peaceful|magical}.",
        "In the {north|south|east} of the city you find {gardens|bookshops|galleries}.",
        "Many {cafes|shops|theaters} stay open until {ten|eleven|midnight} in summer.",
        "The {cathedral|university|harbor} has stood there for {four|five|six} hundred years.",
    ),
    tips=(
        "Book a room {near the station|close to the center}.",
        "Wear good shoes, because the streets are {steep|paved with stone}.",
        "Buy a day ticket {at the airport|from a machine}.",
        "Visit the market {on Saturday|before noon}.",
        "Climb {a tower|the castle hill} to see the roofs.",
        "Ask a {waiter|guide|student} for a {bakery|view|park} that is not in the books.",
    ),
    closers=(
        "{Three|Four} days are enough to see the main sights.",
        "Bring a light coat, even in {May|June|September}.",
        "Take the {train|ferry} if you have the time.",
    ),
)

CHESS = Topic(
    name="chess",
    subjects=("the opening", "the endgame", "the knight", "a pawn attack", "the king"),
    prompts=(
        "How should I think about {subject} in chess?",
        "Can you explain {subject} to a chess beginner?",
        "What do strong chess players say about {subject}?",
        "How do I study {subject} for my next chess game?",
    ),
    openers=(
        "Many games are decided by {subject} and a little {courage|calculation}.",
        "In chess, {subject} deserves {careful|serious} study.",
        "Good players treat {subject} with great {care|respect}.",
    ),
    details=(
        "A hasty move often loses a {piece|pawn|bishop}.",
        "Control of the center gives your pieces {space|freedom}.",
        "Two rooks on one file are {dangerous|powerful}.",
        "Every threat has a {quiet|hidden} answer.",
        "The side with more {time|room} usually wins.",
        "A safe king allows a {bold|bolder} plan.",
        "A {lone|strong|bad} bishop can decide a game with {few|many|blocked} pawns.",
        "In {fast|club|online} games most players {panic|blunder|hurry} near the end.",
    ),
    tips=(
        "Ask what your opponent {wants|fears} before you move.",
        "Solve {three|five|ten} puzzles every morning.",
        "Write down your {lost|best} games and review them.",
        "Play {slow|longer} games with stronger players.",
        "Look at {checks|captures} first and then at threats.",
        "Replay a game by {an old|a great|a modern} champion every {evening|Monday|weekend}.",
    ),
    closers=(
        "Losing is the {fastest|cheapest} teacher.",
        "A draw against {a master|an old rival} can feel like a victory.",
        "The board rewards a {patient|curious} mind.",
    ),
)

PAINTING = Topic(
    name="painting",
    subjects=("a landscape", "a portrait", "a still life", "the sea", "a street scene"),
    prompts=(
        "How do I paint {subject}?",
        "Which colors work best for {subject}?",
        "Is watercolor a good choice for {subject}?",
        "I want to paint {subject}. What comes first?",
    ),
    openers=(
        "To paint {subject}, begin with the {big|simple} shapes.",
        "Painting {subject} trains the {eye|hand} in many ways.",
        "Light is what brings {subject} {to life|together}.",
    ),
    details=(
        "Shadows are {rarely|never} pure black.",
        "Warm tones come {forward|closer} while cool tones fall back.",
        "Watercolor dries {lighter|paler} than it looks.",
        "Oil stays wet for {days|a week} and forgives errors.",
        "Too many colors turn into {mud|grey}.",
        "A {rough|thick} paper holds more water.",
        "A {thin|pale|blue} line on the horizon gives the picture {depth|calm|order}.",
        "Old masters used {seven|six|very few} colors and {ground|mixed} them by hand.",
    ),
    tips=(
        "Squint until the {details|edges} disappear.",
        "Mix more paint than you {need|expect to use}.",
        "Clean the brushes with {soap|warm water} the same evening.",
        "Make {two|three} small sketches before the real thing.",
        "Step back {often|every few minutes} and look from the door.",
        "Hold the brush {loosely|far back|like a spoon} for {skies|trees|soft edges}.",
    ),
    closers=(
        "Stop a little {earlier|sooner} than you want to.",
        "Even a failed picture {teaches|shows} you something.",
        "Hang it where the {morning|evening} light falls.",
    ),
)

PIANO = Topic(
    name="piano",
    subjects=("scales", "a slow waltz", "jazz chords", "a Bach prelude", "sight reading"),
    prompts=(
        "How should I practice {subject} on the piano?",
        "Why do piano teachers care about {subject}?",
        "Is it hard to learn {subject} on the piano?",
        "What helps when I play {subject}?",
    ),
    openers=(
        "At the piano, {subject} will {reward|repay} a slow approach.",
        "Most pupils find {subject} {difficult|tiring} at first.",
        "Work on {subject} for {ten|fifteen} minutes each day.",
    ),
    details=(
        "The left hand is usually {weaker|slower} than the right.",
        "Tense shoulders make the sound {hard|thin}.",
        "A steady pulse matters more than {speed|volume}.",
        "The pedal can hide {mistakes|wrong notes}, so use it late.",
        "Fingers remember what the {mind|ear} repeats.",
        "Soft passages need more {control|attention} than loud ones.",
        "Great {players|composers|teachers} spent whole {mornings|winters|years} on a single page.",
        "A {cold|dusty|small} room changes the {tone|color|sound} of the keys.",
    ),
    tips=(
        "Play each hand {alone|separately} until it feels easy.",
        "Set the metronome to a {slow|comfortable} beat.",
        "Record yourself {once a week|on Sundays}.",
        "Sing the melody {aloud|softly} while you play.",
        "Repeat the {hardest|worst} bar five times.",
        "Mark the {fingering|breaths|accents} in the score with a {soft|blue|red} pencil.",
    ),
    closers=(
        "An instrument in tune makes practice {pleasant|a joy}.",
        "Play for {friends|your family} as soon as you can.",
        "Music grows when you {listen|are patient}.",
    ),
)

PHOTOGRAPHY = Topic(
    name="photography",
    subjects=("sunsets", "wild animals", "old buildings", "children", "city nights"),
    prompts=(
        "How do I take better pictures of {subject}?",
        "Which lens is right for {subject}?",
        "My photos of {subject} look boring. Why?",
        "What settings do you use for {subject}?",
    ),
    openers=(
        "Good pictures of {subject} depend on {light|timing}.",
        "To photograph {subject}, you must {wait|slow down}.",
        "A {simple|cheap} camera is enough for {subject}.",
    ),
    details=(
        "Side light shows {texture|form} and depth.",
        "A busy background {distracts|steals} the eye from the subject.",
        "Long exposures need a {firm|sturdy} tripod.",
        "Noon sun makes {hard|ugly} shadows.",
        "A wide lens bends the {lines|corners} of the frame.",
        "The third {shot|picture} is often better than the first.",
        "Fog and {rain|snow|dust} give a plain scene some {mystery|mood|softness}.",
        "A {fast|slow|steady} shutter decides whether motion looks {frozen|fluid|blurred}.",
    ),
    tips=(
        "Kneel down and shoot from a {low|lower} angle.",
        "Focus on {the eyes|the nearest point}.",
        "Charge a second {battery|phone} the night before.",
        "Leave some empty {space|sky} in the frame.",
        "Delete {half|most} of your pictures on the same day.",
        "Visit the same {spot|corner|street} at {dawn|noon|dusk} and compare.",
    ),
    closers=(
        "Print your {favorites|ten best} and look at them on a wall.",
        "The best camera is the one you {carry|know}.",
        "Seeing well takes {years|practice}, and it is fun.",
    ),
)

WOODWORK = Topic(
    name="woodwork",
    subjects=("a stool", "a bookshelf", "a picture frame", "a garden bench", "a toy box"),
    prompts=(
        "How can I build {subject} myself?",
        "Which wood should I use for {subject}?",
        "What tools do I need to make {subject}?",
        "How do I fix {subject} that wobbles?",
    ),
    openers=(
        "Building {subject} is a {satisfying|rewarding} job for a weekend.",
        "A sharp saw is the {key|secret} to making {subject}.",
        "For {subject}, choose a {dry|straight} board without knots.",
    ),
    details=(
        "Pine is soft and {cheap|easy to cut}.",
        "Oak is heavy but {strong|lasting}.",
        "Wood swells when the air is {humid|wet}.",
        "Glue holds better on a {clean|fresh} surface.",
        "A dull blade {tears|burns} the fibers.",
        "Screws pull the joint {tight|together} while the glue sets.",
        "Boards stored in a {garage|cellar|shed} may {bend|twist|crack} within weeks.",
        "Old {planks|doors|crates} can be turned into {useful|pretty|solid} pieces.",
    ),
    tips=(
        "Measure twice and mark the line with a {knife|hard pencil}.",
        "Sand {along|only along} the grain.",
        "Clamp the parts for {an hour|one night}.",
        "Wear {goggles|a mask} when you cut.",
        "Finish it with {oil|wax|two coats of varnish}.",
        "Drill a {small|shallow|narrow} hole before you drive in a {screw|nail|peg}.",
    ),
    closers=(
        "A {tiny|small} gap can be filled with sawdust and glue.",
        "Things made by hand age {well|gracefully}.",
        "Next time the work will go {faster|twice as fast}.",
    ),
)

BOOKS = Topic(
    name="books",
    subjects=("crime novels", "poems", "biographies", "fairy tales", "short stories"),
    prompts=(
        "Why should I read {subject}?",
        "Can you recommend {subject} for the holidays?",
        "What makes {subject} so popular?",
        "Where do I begin with {subject}?",
    ),
    openers=(
        "Readers enjoy {subject} for {different|many} reasons.",
        "{Subject} open a door to {another life|other times}.",
        "There are {countless|plenty of} good {subject} to choose from.",
    ),
    details=(
        "The first page sets the {tone|mood} for everything.",
        "A narrator does not always tell the {truth|full story}.",
        "Older editions have {beautiful|charming} covers.",
        "Characters grow {clearer|dearer} on a second reading.",
        "Libraries lend {new|recent} titles for free.",
        "Slow chapters often {prepare|hide} the best scene.",
        "Some authors wrote at {night|sea|a kitchen table} and {rarely|never} changed a line.",
        "A {torn|worn|dusty} cover can hide a {brilliant|funny|gentle} voice.",
    ),
    tips=(
        "Give a book {fifty|thirty} pages before you quit.",
        "Read {aloud|to a child} for a few minutes.",
        "Underline a sentence that {surprises|moves} you.",
        "Carry a {thin|light} volume in your bag.",
        "Trade {copies|titles} with a friend who likes them.",
        "Keep a list of {names|titles|quotes} in {a notebook|your phone} for {later|next year}.",
    ),
    closers=(
        "A rainy {Sunday|afternoon} is just the right moment.",
        "Talking about it {later|over dinner} is half the fun.",
        "Some of them stay with you {forever|for life}.",
    ),
)

LANGUAGES = Topic(
    name="languages",
    subjects=("Spanish", "Italian", "Japanese", "Polish", "Arabic"),
    prompts=(
        "What is the best way to learn {subject}?",
        "Is {subject} difficult for adults?",
        "How long does it take to speak {subject}?",
        "I have begun to learn {subject}. Any advice?",
    ),
    openers=(
        "Learning {subject} opens {doors|hearts} in many places.",
        "You can hold a simple talk in {subject} after {six|eight} months.",
        "The sounds of {subject} are {easier|less strange} than they seem.",
    ),
    details=(
        "Grammar comes {naturally|quietly} once you have heard enough.",
        "A few hundred words cover most {daily|ordinary} talk.",
        "Songs make the {rhythm|accent} stick in your memory.",
        "Adults learn {rules|patterns} quickly but fear errors.",
        "Short daily lessons beat one {long|weekly} class.",
        "Native speakers are {patient|glad} when you try.",
        "Children pick up {tones|verbs|endings} by {play|copying|listening}.",
        "In {shops|trains|markets} people speak {faster|more softly|less clearly} than on tape.",
    ),
    tips=(
        "Label things in your {kitchen|office} with the new words.",
        "Watch a {film|cartoon} with subtitles.",
        "Find a partner to {talk|write} to every Friday.",
        "Learn whole {phrases|questions} instead of single words.",
        "Keep a list of {mistakes|useful verbs} in your pocket.",
        "Repeat {ten|twenty} words before {bed|breakfast|lunch} and use {three|four} of them.",
    ),
    closers=(
        "The first {joke|dream} in a new language is a great moment.",
        "Nobody {minds|laughs} if you get an ending wrong.",
        "A trip {abroad|to the country} will do the rest.",
    ),
)

CULTURE_TOPICS = (TRAVEL, CHESS, PAINTING, PIANO, PHOTOGRAPHY, WOODWORK, BOOKS, LANGUAGES)
