"""Topics under the open sky: sailing, cycling, running, camping, swimming, birds, stars, bees."""

from __future__ import annotations

from whatchanged.demo.grammar import Topic

SAILING = Topic(
    name="sailing",
    subjects=("a small boat", "a racing boat", "a wooden boat", "a catamaran", "an old yacht"),
    prompts=(
        "What is it like to sail {subject}?",
        "How do I handle {subject} in strong wind?",
        "What should I check on {subject} before I leave?",
        "Is {subject} a good choice for the coast?",
    ),
    openers=(
        "Sailing {subject} teaches you to {respect|watch} the wind.",
        "A calm bay is the {best|safest} place to try {subject}.",
        "With {subject} you feel every {wave|gust} under your feet.",
    ),
    details=(
        "The wind is never as {steady|simple|kind} as it looks.",
        "A loose rope can cause a lot of {trouble|damage}.",
        "Dark water often means a {strong|sudden|fresh} gust.",
        "The tide can carry you {far|a mile} off course.",
        "A heavy keel keeps the hull {upright|stable|level}.",
        "Salt eats metal parts {slowly|quickly} if nobody rinses them.",
        "A {small|quick|clumsy} change of course can fill the {cabin|deck|cockpit} with water.",
        "On {grey|misty|moonless} nights you steer by the {compass|buoys|lighthouse}.",
    ),
    tips=(
        "Wear a life jacket {at all times|even near the shore}.",
        "Reef the sail {early|before the storm|when in doubt}.",
        "Check the forecast {twice|once more} in the harbor.",
        "Keep one hand {for yourself|on the rail} when you move about.",
        "Tell someone on land {your route|when you return}.",
        "Practice {turning|anchoring|docking} with a {friend|teacher} on {calm|bright} days.",
    ),
    closers=(
        "At sunset the harbor lights are a {fine|welcome} sight.",
        "No two days on the water are {alike|the same}.",
        "A good crew matters more than {speed|new sails}.",
    ),
)

CYCLING = Topic(
    name="cycling",
    subjects=("a road bike", "a mountain bike", "a folding bike", "a city bike", "a cargo bike"),
    prompts=(
        "Should I buy {subject}?",
        "How do I look after {subject}?",
        "Can I ride {subject} to work every day?",
        "What are the good points of {subject}?",
    ),
    openers=(
        "Riding {subject} is a {quick|healthy} way to get around.",
        "If you choose {subject}, the right size is {important|everything}.",
        "Many riders love {subject} because it feels so {light|free}.",
    ),
    details=(
        "Soft tires make every hill feel {steeper|longer}.",
        "A clean chain runs {quietly|smoothly} and lasts longer.",
        "Wet leaves are as slippery as {ice|soap|glass}.",
        "Your knees hurt when the saddle is too {low|high}.",
        "Good brakes are worth more than {fancy|extra|cheap} gears.",
        "Drivers often overlook a rider in {the rain|the dark|dim light}.",
        "Long {hills|tunnels|bridges} feel shorter in the company of {friends|others}.",
        "A bag on the {rack|frame|handlebar} carries {lunch|tools|a raincoat} without strain.",
    ),
    tips=(
        "Pump up the tires {every week|before each ride}.",
        "Wear a {bright|yellow} jacket and a helmet.",
        "Carry a spare {tube|light} and a small pump.",
        "Shift down {before|well before} the climb begins.",
        "Lock the frame to a {solid|metal} post.",
        "Let a {mechanic|shop|skilled friend} look at the {wheels|cables|pedals} once a year.",
    ),
    closers=(
        "Fresh air and {moving|strong} legs clear the head.",
        "You will {soon|quickly} know every side street in town.",
        "A ride along the {river|canal|lake} is hard to beat.",
    ),
)

RUNNING = Topic(
    name="running",
    subjects=("a short run", "a marathon", "a trail race", "a ten mile run", "a morning jog"),
    prompts=(
        "How do I prepare for {subject}?",
        "What should I eat before {subject}?",
        "Is {subject} good for my heart?",
        "I have signed up for {subject}. Any advice?",
    ),
    openers=(
        "Getting ready for {subject} takes {time|weeks} and a clear plan.",
        "The hardest part of {subject} is the {start|middle}.",
        "Almost anyone can finish {subject} with {steady|regular} training.",
    ),
    details=(
        "Muscles grow {stronger|tougher} while you rest.",
        "A slow pace builds {endurance|confidence} without pain.",
        "Worn shoes can hurt your {knees|ankles|heels}.",
        "Soft ground is {kinder|easier} on the joints.",
        "Thirst is a late {sign|signal} that you need water.",
        "Hills teach the body to use its {power|strength} wisely.",
        "In {hot|icy|humid} weather even {fast|skilled|young} runners slow down.",
        "A {simple|cheap|plain} watch is enough to keep your {pace|rhythm|plan}.",
    ),
    tips=(
        "Start so slowly that you can {talk|chat|sing}.",
        "Stretch your {legs|calves|hips} when you get home.",
        "Eat a {banana|piece of toast} an hour before you set off.",
        "Rest for {one day|two days} after a long effort.",
        "Run with {a partner|a small group} on dull days.",
        "Add {five|ten} minutes every {week|other week} until the {distance|route} feels natural.",
    ),
    closers=(
        "Cross the line with a {smile|quiet smile} and enjoy it.",
        "Progress comes in {small|tiny} steps, week after week.",
        "The calm feeling afterwards lasts for {hours|the whole day}.",
    ),
)

CAMPING = Topic(
    name="camping",
    subjects=("the forest", "the mountains", "the desert", "the lake", "the coast"),
    prompts=(
        "What should I pack for a camping trip to {subject}?",
        "Is it safe to camp near {subject}?",
        "What makes a night near {subject} special?",
        "We are going camping by {subject}. Any tips?",
    ),
    openers=(
        "A few nights near {subject} {refresh|restore} tired minds.",
        "Campers who love {subject} come back every {summer|year}.",
        "Near {subject} the weather can change {fast|within minutes}.",
    ),
    details=(
        "Flat ground makes for a much {better|drier} night.",
        "Animals can smell {fruit|sausages|sweets} from far away.",
        "The hours before dawn are the {coldest|darkest}.",
        "A good sleeping bag weighs {little|less than you think}.",
        "Damp wood gives more {smoke|steam} than heat.",
        "Insects gather wherever the water {stands still|is warm}.",
        "The {wind|silence|rain} outside sounds {louder|closer|stranger} through thin cloth.",
        "A {gas|small|folding} stove boils water in {four|six} minutes.",
    ),
    tips=(
        "Pitch the tent before it gets {dark|windy}.",
        "Hang your food {in a tree|on a high branch}.",
        "Bring {a headlamp|dry socks|a wool cap} for each person.",
        "Put out the fire with {plenty of water|wet sand}.",
        "Take all your rubbish {home|back} with you.",
        "Store {matches|maps|phones} in a {sealed|plastic|tight} bag.",
    ),
    closers=(
        "Breakfast outdoors tastes {twice as good|better than anywhere}.",
        "Leave the place as {clean|quiet} as you found it.",
        "On a clear night you can {see|count} a thousand stars.",
    ),
)

SWIMMING = Topic(
    name="swimming",
    subjects=("the front crawl", "the backstroke", "the breaststroke", "the butterfly", "diving"),
    prompts=(
        "How can I get better at {subject}?",
        "What are common mistakes in {subject}?",
        "Can adults still learn {subject}?",
        "How long does it take to master {subject}?",
    ),
    openers=(
        "Learning {subject} is mostly a matter of {rhythm|breathing}.",
        "A relaxed body makes {subject} {easier|smoother}.",
        "People of any age can improve at {subject} with {practice|a coach}.",
    ),
    details=(
        "The water carries you if you {let it|stay calm}.",
        "A lifted head makes the legs {sink|drop}.",
        "Long strokes save {energy|breath|strength}.",
        "Cold water makes the muscles {tense|stiff|slow}.",
        "Feet that point inward act like a {brake|wall}.",
        "Good swimmers look {slow|lazy} but move fast.",
        "Your {hips|elbows|hands} should stay {high|near the surface} in each stroke.",
        "Clear goggles with a {soft|blue|narrow} seal help you keep a {straight|level|true} line.",
    ),
    tips=(
        "Breathe out {under water|through the nose} the whole time.",
        "Practice with {a float|short fins} for a few lengths.",
        "Rest at the wall after every {two|four|six} lengths.",
        "Ask a friend to {film|watch} you from the side.",
        "Shower {first|before you start} and warm up your arms.",
        "Work on the {kick|turn|glide} when the pool is {empty|quiet|half full}.",
    ),
    closers=(
        "Two visits {a week|every week} are enough to see progress.",
        "Your back will feel {looser|stronger} after a month.",
        "Soon the pool will feel {small|like home}.",
    ),
)

BIRDS = Topic(
    name="birds",
    subjects=("robins", "owls", "swallows", "herons", "woodpeckers"),
    prompts=(
        "Where can I see {subject}?",
        "What do {subject} eat?",
        "How can I attract {subject} to my garden?",
        "What is special about {subject}?",
    ),
    openers=(
        "{Subject} are {shy|clever} birds with sharp eyes.",
        "You will often hear {subject} {before|long before} you see them.",
        "It takes {patience|luck} to watch {subject} from nearby.",
    ),
    details=(
        "They build their nests out of {moss|twigs|feathers}.",
        "The young leave the nest after {three|four} weeks.",
        "Males sing to {guard|defend} their ground.",
        "Many of them fly south {in autumn|before the frost}.",
        "Their colors are {brighter|stronger} in spring.",
        "Cats are a greater danger than {hawks|storms}.",
        "On {foggy|frosty|mild} mornings their song carries over the {fields|roofs|marsh}.",
        "A hungry pair feeds its {chicks|brood|young} {eighty|ninety|two hundred} times a day.",
    ),
    tips=(
        "Stand still near {a hedge|a pond|an old tree} at dawn.",
        "Use a {light|simple} pair of binoculars.",
        "Offer {seeds|nuts|water} when the ground is frozen.",
        "Note the {place|date|weather} in a small diary.",
        "Keep a respectful {distance|silence} during the nesting season.",
        "Hang a {wooden|deep|clean} box on a {north|shaded|high} wall in winter.",
    ),
    closers=(
        "Every walk becomes {richer|more exciting} when you know their calls.",
        "Once you start looking, they are {everywhere|all around}.",
        "Local clubs {welcome|help} new members all year.",
    ),
)

ASTRONOMY = Topic(
    name="astronomy",
    subjects=("the moon", "Jupiter", "Saturn", "the Milky Way", "the North Star"),
    prompts=(
        "How can I observe {subject}?",
        "What is interesting about {subject}?",
        "Do I need a telescope for {subject}?",
        "When is the best time to look at {subject}?",
    ),
    openers=(
        "A first look at {subject} is something {special|unforgettable}.",
        "You can find {subject} with {a simple map|the naked eye}.",
        "For centuries {subject} has {puzzled|inspired} people.",
    ),
    details=(
        "City lights drown the {faint|weaker} stars.",
        "The eye needs twenty minutes to get used to {darkness|the night}.",
        "Cold air is often {clear|steady|calm}.",
        "A big lens gathers more {light|detail}.",
        "Its light has traveled a {long|very long} way to reach us.",
        "Thin clouds can {hide|blur} everything for hours.",
        "On {dry|frosty|moonless} nights the view is {sharper|richer} than in {summer|spring}.",
        "Old {sailors|farmers|poets} used the sky as a {clock|map|calendar}.",
    ),
    tips=(
        "Use a {red|dim} lamp to read your chart.",
        "Drive {an hour|a few miles} away from the city.",
        "Dress {warmly|in layers} because you will stand still.",
        "Start with {binoculars|a small lens} before you spend more.",
        "Draw what you see in a {notebook|sketchbook}.",
        "Learn {one|two|three} bright stars each {month|week} and the rest will {follow|come}.",
    ),
    closers=(
        "The sky looks {different|new} in every season.",
        "Children ask the {best|hardest} questions on such nights.",
        "One clear night can start a {lifelong|new} hobby.",
    ),
)

BEES = Topic(
    name="bees",
    subjects=("a beehive", "wild bees", "honey", "a queen bee", "a bee colony"),
    prompts=(
        "What should a beginner know about {subject}?",
        "Tell me something surprising about {subject}.",
        "Why is there so much interest in {subject}?",
        "How does a beekeeper think about {subject}?",
    ),
    openers=(
        "To understand {subject}, watch the {garden|meadow} in spring.",
        "Beekeepers speak about {subject} with {respect|affection}.",
        "The story of {subject} is full of {surprises|wonder}.",
    ),
    details=(
        "A single worker visits hundreds of {flowers|blossoms} a day.",
        "The bees dance to show the way to {food|nectar}.",
        "In winter they huddle in a {tight|warm} ball.",
        "Smoke makes them {calm|sleepy|peaceful} for a while.",
        "Lime trees and {clover|heather|thyme} feed them well.",
        "Poison sprays harm them even in {small|tiny} amounts.",
        "A {warm|dry|late} autumn lets them gather {more|enough} for the {cold|dark} months.",
        "Each cell of {wax|the comb} has six {even|equal|perfect} sides.",
    ),
    tips=(
        "Plant {lavender|sage|borage} close to your door.",
        "Wear {light|white} clothes and move without haste.",
        "Join a local {club|course} before you buy anything.",
        "Set out a shallow dish of water with {stones|corks}.",
        "Leave a corner of the lawn {wild|uncut} for them.",
        "Open the {lid|box} only on {sunny|still|mild} days, and close it {soon|gently}.",
    ),
    closers=(
        "Without them our {orchards|fields} would be silent.",
        "A jar of your own makes a {proud|sweet} present.",
        "They were here {millions of years|long} before us.",
    ),
)

OUTDOOR_TOPICS = (SAILING, CYCLING, RUNNING, CAMPING, SWIMMING, BIRDS, ASTRONOMY, BEES)
