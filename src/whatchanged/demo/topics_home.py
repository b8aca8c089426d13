"""Topics about the house: tea, bread, soup, gardening, money, sleep, dogs, knitting."""

from __future__ import annotations

from whatchanged.demo.grammar import Topic

TEA = Topic(
    name="tea",
    subjects=("green tea", "black tea", "white tea", "mint tea", "jasmine tea"),
    prompts=(
        "How do I make good {subject}?",
        "What should I know about {subject}?",
        "Why do so many people love {subject}?",
        "I want to try {subject}. Where do I start?",
    ),
    openers=(
        "{Subject} is a {gentle|simple} drink for a quiet morning.",
        "A cup of {subject} {calms|warms} both the body and the mind.",
        "Good {subject} begins with {fresh leaves|soft water}.",
    ),
    details=(
        "The leaves need room to {open|unfold|move} in the pot.",
        "Water that is too hot makes the taste {bitter|harsh|flat}.",
        "Most people let it steep for {two|three|four} minutes.",
        "The second cup is often {milder|sweeter|better} than the first.",
        "Loose leaves give a {deeper|richer|cleaner} flavor than bags.",
        "A {pale|bright|dark} color tells you how strong it is.",
        "In {China|India|Japan} the {older|first|best} leaves are picked by hand.",
        "A {thin|wide|small} cup lets you smell the {flowers|grass|steam} as you drink.",
    ),
    tips=(
        "Keep the leaves in a {dry|dark|closed} tin.",
        "Pour the water {slowly|gently} and wait before you taste it.",
        "Warm the {cup|pot} first so that the heat stays longer.",
        "Serve it with {a slice of lemon|a plain biscuit|a little honey}.",
        "Use {one spoon|two spoons} of leaves for each cup.",
        "Try it {plain|without sugar|with cold milk} for {a day|a week|some time}.",
    ),
    closers=(
        "After a week you will find your {own|favorite} way.",
        "It is a small {pleasure|ritual} that costs very little.",
        "Share a pot with {a friend|a neighbor} and take your time.",
    ),
)

BREAD = Topic(
    name="bread",
    subjects=("rye bread", "white bread", "sourdough bread", "flat bread", "corn bread"),
    prompts=(
        "How can I bake {subject} at home?",
        "What makes {subject} so good?",
        "Give me some advice on baking {subject}.",
        "Is {subject} hard to bake?",
    ),
    openers=(
        "Fresh {subject} fills the whole house with a {warm|sweet} smell.",
        "Baking {subject} is {easier|slower} than most people think.",
        "{Subject} needs only flour, water, salt and {patience|time}.",
    ),
    details=(
        "The dough should feel {soft|smooth|elastic} under your hands.",
        "A long rest gives the crumb a {lighter|better|deeper} taste.",
        "Yeast works {faster|best|well} in a warm kitchen.",
        "A hot oven makes the crust {crisp|golden|firm}.",
        "Wet dough sticks, but it makes {large|airy|lovely} holes.",
        "Old flour gives a {dull|heavy|grey} loaf.",
        "Bakers in {small|old|quiet} villages still start their work at {three|four|five}.",
        "The {bottom|middle|back} of the oven is often hotter than the {top|door|front}.",
    ),
    tips=(
        "Weigh the flour {with a scale|with care} instead of using a cup.",
        "Let the dough rise until it has {doubled|grown well}.",
        "Put a bowl of {water|ice} in the oven to make steam.",
        "Cool the loaf on a rack for {an hour|half an hour|a while}.",
        "Knead for {eight|ten|twelve} minutes without a break.",
        "Add a handful of {seeds|nuts|raisins} for a {richer|finer|stronger} taste.",
    ),
    closers=(
        "The first slice with {butter|jam|soft cheese} is the best reward.",
        "Even a {flat|crooked} loaf tastes fine on the day it is baked.",
        "Freeze {half of it|the rest} and you will never run out.",
    ),
)

SOUP = Topic(
    name="soup",
    subjects=("onion soup", "tomato soup", "lentil soup", "pumpkin soup", "chicken soup"),
    prompts=(
        "How do you cook {subject}?",
        "What goes well in {subject}?",
        "My {subject} is always bland. What can I do?",
        "Can you tell me something about {subject}?",
    ),
    openers=(
        "A bowl of {subject} is a {cheap|hearty} meal for a cold day.",
        "{Subject} tastes best when it cooks {slowly|without hurry}.",
        "Every cook has a {secret|different} way of making {subject}.",
    ),
    details=(
        "A good stock gives it {body|depth|strength}.",
        "Onions should turn {soft|golden|sweet} before anything else goes in.",
        "Herbs lose their taste when they boil {too long|for hours}.",
        "A spoon of {vinegar|lemon juice|cream} lifts the whole pot.",
        "Thick soup keeps warm much {longer|better} on the table.",
        "Leftover vegetables are {perfect|ideal|welcome} in the pot.",
        "A {heavy|wide|deep} pot spreads the heat more {evenly|gently|slowly}.",
        "Dried {beans|mushrooms|peas} make a {fine|filling|thrifty} addition.",
    ),
    tips=(
        "Taste it {twice|often} and add the seasoning late.",
        "Blend only {half|a third} of it to keep some bite.",
        "Simmer it on low heat for {thirty|forty|fifty} minutes.",
        "Top it with {toasted bread|chopped parsley|grated cheese}.",
        "Skim the foam with a {large|flat} spoon.",
        "Stir it with a {wooden|clean|long} spoon every {five|ten|fifteen} minutes.",
    ),
    closers=(
        "It tastes even better {the next day|on the second day}.",
        "Make a big pot and {freeze|give away} what is left.",
        "Nothing is more {comforting|welcome} after a walk in the rain.",
    ),
)

GARDENING = Topic(
    name="gardening",
    subjects=("roses", "tomatoes", "tulips", "beans", "strawberries"),
    prompts=(
        "How do I grow {subject} in a small garden?",
        "When should I plant {subject}?",
        "What do {subject} need to stay healthy?",
        "My {subject} do not look well. Any ideas?",
    ),
    openers=(
        "Growing {subject} is a {slow|quiet} joy.",
        "Healthy {subject} need {sun|light}, water and good soil.",
        "Anyone with a little patience can grow {subject} {in pots|in a yard|at home}.",
    ),
    details=(
        "Rich soil holds water and feeds the {roots|young plants}.",
        "Snails like to eat {fresh|soft|tender} leaves at night.",
        "Too much water makes the roots {rot|weak}.",
        "Plants in the shade grow {tall|slowly} but bloom less.",
        "Worms keep the earth {loose|alive|healthy}.",
        "A {stone|brick|wooden} wall protects the bed from cold wind.",
        "In {dry|hot|windy} weeks the leaves turn {yellow|brown|pale} at the edges.",
        "Bees and {ladybirds|birds|frogs} are the {cheapest|finest|oldest} helpers you can have.",
    ),
    tips=(
        "Water them {early|in the morning|before sunrise} and never at noon.",
        "Cover the ground with {straw|bark|dry leaves} in summer.",
        "Pull out the weeds {every week|after rain}.",
        "Cut the dead stems with {clean|sharp} scissors.",
        "Leave {a hand|two hands} of space between the plants.",
        "Feed the soil with {compost|ash|manure} in {March|April|early spring}.",
    ),
    closers=(
        "My grandmother used to {talk to|sing to|count} her plants every evening.",
        "By {June|July|August} the work will have paid off.",
        "A garden forgives {most|many} mistakes within a year.",
    ),
    closer_rate=0.75,
)

MONEY = Topic(
    name="money",
    subjects=("saving", "a monthly budget", "a loan", "a pension", "a shared account"),
    prompts=(
        "What should I think about before I plan {subject}?",
        "Can you explain how {subject} works?",
        "How do I get started with {subject}?",
        "Is {subject} a good idea for a young family?",
    ),
    openers=(
        "Most questions about {subject} have a {simple|plain} answer.",
        "Thinking early about {subject} can {save|spare} you a lot of trouble.",
        "When it comes to {subject}, small steps {matter|count} most.",
    ),
    details=(
        "Fees look small but grow over {time|the years|many months}.",
        "A written list shows where the money {goes|leaks away}.",
        "Interest works {for you|against you} more quickly than it seems.",
        "Prices rise a little {each year|every winter}.",
        "Banks earn well when customers {forget|hurry|do not ask}.",
        "A {small|modest|separate} reserve helps on bad days.",
        "Small {habits|cuts|changes} at home often bring more than a {raise|bonus|second job}.",
        "People who {wait|rush|guess} tend to pay {more|twice} in the end.",
    ),
    tips=(
        "Compare at least {two|three|four} offers before you sign.",
        "Set aside a fixed sum on {payday|the first of the month}.",
        "Read the {last page|small print} with great care.",
        "Write down every {expense|purchase} for one month.",
        "Pay the {oldest|smallest|most expensive} debt first.",
        "Talk openly with {your partner|your parents|an adviser} about {goals|worries|limits}.",
    ),
    closers=(
        "A calm plan beats a {clever|quick} one.",
        "Check the numbers again {in spring|next year|after six months}.",
        "You will sleep {better|well} once it is settled.",
    ),
)

SLEEP = Topic(
    name="sleep",
    subjects=("deep sleep", "a short nap", "a late night", "an early start", "a noisy bedroom"),
    prompts=(
        "What is your view on {subject}?",
        "How does {subject} affect my day?",
        "Can you give me advice about {subject}?",
        "What do experts say about {subject}?",
    ),
    openers=(
        "The effect of {subject} is {stronger|greater} than many people believe.",
        "There is much to learn about {subject} and {daily health|our mood}.",
        "Your body notices {subject} {at once|within hours}.",
    ),
    details=(
        "A cool room helps the body {rest|slow down|recover}.",
        "Bright screens keep the brain {awake|busy|alert}.",
        "Heavy meals make the night {restless|long|uneasy}.",
        "Regular hours {train|steady} the inner clock.",
        "Coffee stays in the blood for {six|seven|eight} hours.",
        "Dreams become {longer|clearer|more vivid} toward morning.",
        "Light from {a street lamp|the hall|a clock} is enough to {disturb|wake|bother} you.",
        "Gentle {walks|stretches|music} in the evening will {loosen|relax|settle} the mind.",
    ),
    tips=(
        "Go to bed at the same time {every day|even on weekends}.",
        "Read a few pages of {a dull|a calm|an old} book.",
        "Open the window for {five|ten} minutes before you lie down.",
        "Put the phone in {another room|a drawer} for the night.",
        "Breathe {slowly|deeply} and count back from fifty.",
        "Drink {warm milk|herbal tea|plain water} instead of {wine|coffee|cola} after dinner.",
    ),
    closers=(
        "A single bad night does {no|little} harm.",
        "Your {mood|memory} will thank you for it.",
        "Within {a week|two weeks} the habit feels natural.",
    ),
)

DOGS = Topic(
    name="dogs",
    subjects=("puppies", "terriers", "sheepdogs", "poodles", "older dogs"),
    prompts=(
        "What are {subject} like at home?",
        "How should I train {subject}?",
        "Are {subject} a good choice for a family?",
        "What do {subject} need every day?",
    ),
    openers=(
        "Most people find that {subject} are {loyal|cheerful} companions.",
        "{Subject} need {clear rules|a steady routine} from the first day.",
        "Living with {subject} keeps the whole family {active|busy}.",
    ),
    details=(
        "They read your voice and your {face|hands|mood}.",
        "A bored dog will chew {shoes|chairs|cushions}.",
        "Short lessons work {better|far better} than long ones.",
        "They want to sniff every {tree|corner|fence} on the way.",
        "A tired dog is usually a {calm|happy|quiet} dog.",
        "Loud noises can {frighten|upset|confuse} them.",
        "In {busy|strange|crowded} places they stay close to a {calm|trusted|firm} owner.",
        "Their {ears|noses|teeth} should be checked by a vet every {spring|autumn|year}.",
    ),
    tips=(
        "Praise good behavior {at once|right away}.",
        "Take a walk {before breakfast|after lunch|at dusk} every day.",
        "Brush the coat {twice|three times} a week.",
        "Keep fresh water in a {heavy|clean|steel} bowl.",
        "Hide small treats {in the garden|around the house} as a game.",
        "Teach one {word|sign|trick} at a time and stop after {five|ten} {good|quiet} minutes.",
    ),
    closers=(
        "The wagging tail at the door is {worth it|thanks enough}.",
        "They ask for little and give {a great deal|so much} back.",
        "With {kindness|patience} almost every problem can be solved.",
    ),
)

KNITTING = Topic(
    name="knitting",
    subjects=("a wool scarf", "a warm sweater", "a pair of socks", "a baby hat", "a blanket"),
    prompts=(
        "How do I knit {subject}?",
        "Is {subject} a good project for a beginner?",
        "What do I need to make {subject}?",
        "Any tips for knitting {subject}?",
    ),
    openers=(
        "Knitting {subject} is a {relaxing|lovely} project for long evenings.",
        "You can finish {subject} in {a few|three} weekends.",
        "For {subject} you need {two needles|good light} and some yarn.",
    ),
    details=(
        "Thick yarn grows {fast|quickly} and hides small errors.",
        "Tight stitches make the fabric {stiff|hard|narrow}.",
        "Wool stretches a little when it is {washed|worn|damp}.",
        "Bamboo needles are {lighter|quieter|warmer} than steel ones.",
        "Stripes are a {nice|clever} way to use up old yarn.",
        "Light colors show the pattern more {clearly|sharply}.",
        "A {ribbed|double|folded} edge keeps the {border|cuff|corner} from rolling.",
        "Yarn made of {cotton|linen|silk} feels {cool|smooth|light} in summer.",
    ),
    tips=(
        "Count the stitches at the end of {each|every second} row.",
        "Make a small {sample|square} before you begin.",
        "Wash the finished piece {by hand|in cold water}.",
        "Loosen your {fingers|grip|shoulders} whenever the work feels tight.",
        "Mark the first row with {a pin|red thread|a small clip}.",
        "Write the {pattern|size|number of rows} on a {card|label} before you {stop|rest}.",
    ),
    closers=(
        "A handmade gift is {remembered|kept} for years.",
        "Mistakes can always be {undone|pulled out} and knitted again.",
        "Soon your hands will {work|move} without your eyes.",
    ),
)

HOME_TOPICS = (TEA, BREAD, SOUP, GARDENING, MONEY, SLEEP, DOGS, KNITTING)
