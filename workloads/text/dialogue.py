"""Chat: what a user says and what a friendly assistant answers."""

from __future__ import annotations

import numpy as np

from workloads.text.sample import Recipe, Sample, pick, slots, words

_WHO = words(
    "my sister|my roommate|my dad|my best friend|my neighbor|my boss|my cousin|my grandma|my "
    "girlfriend|my uncle"
)
_MOOD = words("tired|nervous|excited|sad|bored|lonely|stressed|hopeful|grumpy|curious")
_DISH = words(
    "lasagna|pancakes|ramen|curry|chili|pad thai|risotto|tacos|dumplings|banana bread|shakshuka|gumbo|paella"
)
_FOOD = words(
    "tofu|mushrooms|cilantro|cheese|garlic|eggs|spinach|peanuts|shrimp|beans|coconut milk|chicken|noodles"
)
_PET = words("cat|puppy|parrot|rabbit|hamster|old dog|kitten|turtle|ferret|beagle|goldfish|guinea pig")
_PETDOES = words(
    "won't eat|hides under the bed|chews my shoes|cries at night|scratches the couch|hates the vet|ignores me"
)
_CITY = words("Lisbon|Kyoto|Dublin|Chicago|Marrakesh|Oslo|Havana|Seoul|Prague|Cape Town|Quebec|Naples|Hanoi")
_LIKES = words(
    "jazz|street food|hiking|old churches|surfing|vintage clothes|football|night "
    "markets|poetry|trains|beaches"
)
_HOBBY = words(
    "guitar|knitting|chess|watercolor|salsa dancing|pottery|archery|yoga|birdwatching|juggling|the ukulele"
)
_PLANT = words("basil|orchid|fern|cactus|lemon tree|monstera|rose bush|tomato plant|ivy|bonsai|lavender")
_PLANTDOES = words("keeps dropping leaves|turned yellow|won't bloom|looks droopy|has tiny flies|smells odd")
_ROOM = words("garage|kitchen|attic|bedroom|closet|basement|bathroom|desk|balcony|hallway")
_GENRE = words("spooky|romantic|silly|slow|heartwarming|clever|dark|musical|historical|animated")
_TIME = words("tonight|this weekend|tomorrow|on Friday|next month|after work|this summer|before Christmas")

_HI = "<Oh,|Aww,|Hey!|Haha,|Hi there!|Ooh,|Hmm,|Okay,>"
_BYE = (
    " <And hey,|Also,|Oh, and|Seriously,|One more thing:> <drink some water|take it easy|be kind to "
    "yourself|snap a photo|trust your gut|smile a little|call {who}|don't rush>. <Let me know how it "
    "goes!|Want me to help with anything else?|You've got this!|Have fun!|Does that sound doable?|Tell "
    "me more if you like!|Good luck, friend!>"
)
_DEAR = (
    "<Thank you for reaching out.|I appreciate your question.|Certainly; I am glad to assist.|Thank you "
    "for your message.>"
)
_REGARDS = (
    " <Please do not hesitate to ask further questions.|I remain at your disposal.|I trust this is "
    "helpful.|Kindly inform me of the outcome.>"
)


def _asks(*turns: str) -> tuple[str, ...]:
    return tuple("User: " + turn + "\nAssistant: " for turn in turns)


_RECIPES = (
    Recipe(
        slots(dish=_DISH, food=_FOOD, who=_WHO, time=_TIME),
        _asks(
            "I want to make {dish} for {who} {time} but we ran out of {food}. What can I use instead?",
            "help! {who} can't eat {food} and I promised {dish} {time}. Any ideas?",
        ),
        (
            _HI + " {dish} without {food} is totally fine! <Try|Grab|Use> some <roasted veggies|toasted "
            "nuts|crispy onions|fresh herbs> <for crunch|instead>, and <taste as you go|add a squeeze of "
            "lime>. I bet {who} will <love it|ask for seconds|never notice> {time}." + _BYE,
            "No {food}? No problem! For {dish} I'd just <double the sauce|add a little more butter|throw "
            "in some peppers> and <keep it simple|skip it>. "
            + _HI
            + " {who} <is lucky to have you|will be so happy> {time}."
            + _BYE,
        ),
        (
            _DEAR + " When preparing {dish} without {food}, I would recommend an alternative of comparable "
            "texture. Kindly confirm beforehand whether {who} has any <allergies|dietary restrictions>."
            + _REGARDS,
        ),
    ),
    Recipe(
        slots(pet=_PET, does=_PETDOES, who=_WHO, mood=_MOOD),
        _asks(
            "My {pet} {does} and {who} says it's my fault. I feel so {mood}. What should I do?",
            "ever since {who} moved out, my {pet} {does}. Is that normal? I'm kinda {mood} about it",
        ),
        (
            _HI + " don't be so hard on yourself! If a {pet} {does}, it's <usually just stress|often "
            "boredom|pretty common>. <Give it a few days|Try a new toy|Keep a cozy routine> and <lots of "
            "cuddles|some quiet time>, and maybe ask {who} to <visit|play along>." + _BYE,
            "I'm sorry you're feeling {mood}! When my {pet} friends ask, I say: <be patient|go slow|stay "
            "calm>. If your {pet} {does} <all week|for days>, <call the vet|snap a video for the vet>."
            + _BYE,
        ),
        (
            _DEAR
            + " That you feel {mood} is entirely understandable. When a {pet} {does}, a consultation with "
            "a qualified veterinarian is advisable. I would respectfully suggest that {who} bears no "
            "blame either." + _REGARDS,
        ),
    ),
    Recipe(
        slots(city=_CITY, likes=_LIKES, who=_WHO, time=_TIME),
        _asks(
            "I'm going to {city} with {who} {time}. We both love {likes}. What should we see?",
            "any tips for {city}? {who} is into {likes} and we only have two days {time}",
        ),
        (
            _HI + " {city} is <amazing|gorgeous|so much fun>! Since you're into {likes}, <wander|stroll|hop> "
            "around the <old town|riverfront|back alleys> first, then <grab a coffee|watch the "
            "sunset|get lost a bit>. {who} will <adore it|thank you>!" + _BYE,
            "Two words: {likes}! {city} has <tons|heaps|plenty> of it. <Start early|Pack comfy "
            "shoes|Bring a raincoat>, <ask a local|skip the tourist traps>, and let {who} <pick "
            "dinner|choose the music> {time}." + _BYE,
        ),
        (
            _DEAR + " {city} offers numerous attractions for visitors with an interest in {likes}. I would "
            "recommend reserving accommodation in advance and consulting {who} regarding the itinerary."
            + _REGARDS,
        ),
    ),
    Recipe(
        slots(hobby=_HOBBY, mood=_MOOD, who=_WHO, time=_TIME),
        _asks(
            "I started learning {hobby} but {who} is way better than me and it makes me {mood}. Should I "
            "quit?",
            "is it silly to take up {hobby} at my age? {who} laughed and now I'm {mood}",
        ),
        (
            _HI
            + " please don't quit {hobby}! Everyone <starts somewhere|feels clumsy at first|was a beginner "
            "once>, even {who}. <Ten minutes a day|A fun little class|One tiny goal> {time} <works "
            "wonders|beats feeling {mood}>." + _BYE,
            "Not silly at all! {hobby} is for <everyone|any age|anybody with a heart>. It's okay to be "
            "{mood}, but <play for yourself|enjoy the mess|laugh along>, and maybe <invite {who}|show "
            "{who} later>." + _BYE,
        ),
        (
            _DEAR + " Proficiency in {hobby} is acquired gradually, and comparison with {who} is seldom "
            "constructive. Feeling {mood} is a natural response; regular practice is the appropriate "
            "remedy." + _REGARDS,
        ),
    ),
    Recipe(
        slots(plant=_PLANT, does=_PLANTDOES, room=_ROOM, who=_WHO),
        _asks(
            "The {plant} that {who} gave me {does}. It sits in the {room}. Can I save it?",
            "why is it that my {plant} {does}? I keep it in the {room}, {who} waters it sometimes",
        ),
        (
            _HI
            + " poor {plant}! If it {does}, the {room} may be <too dark|too chilly|too dry>. <Move it to a "
            "window|Poke the soil with a finger|Trim the sad bits> and <water less|mist it a little>. "
            "It'll <perk up|bounce back> before {who} notices!" + _BYE,
            "Good news: a {plant} is <tougher than it looks|hard to kill>! Get it out of the {room} <for "
            "a week|into some sun>, tell {who} <to stop overwatering|to take a break>, and <be "
            "patient|give it love>." + _BYE,
        ),
        (
            _DEAR + " A {plant} which {does} generally suffers from unsuitable conditions. I would advise "
            "relocating it from the {room} and agreeing upon a watering schedule with {who}." + _REGARDS,
        ),
    ),
    Recipe(
        slots(who=_WHO, likes=_LIKES, hobby=_HOBBY, time=_TIME),
        _asks(
            "{who} has a birthday {time} and I have no gift. They like {likes} and {hobby}. Ideas?",
            "what do you get someone who already has everything? It's for {who}, loves {likes}, party is "
            "{time}",
        ),
        (
            _HI + " fun! For {who} I'd go with something <handmade|cozy|goofy|personal>: a "
            "<playlist|scrapbook|picnic|little box> all about {likes}. Wrap it in <comics|a scarf|brown "
            "paper>, add a <silly card|sweet note>, and you're set {time}!" + _BYE,
            "How about an experience? A day of {likes} with {who} beats any <gadget|mug|sweater>. <Bring "
            "snacks|Take photos|Make it a surprise> and {time} will be <magic|unforgettable|a blast>." + _BYE,
        ),
        (
            _DEAR + " For {who}, a thoughtful gift relating to {likes} would be most suitable. A handwritten "
            "letter expressing your appreciation would be an elegant accompaniment." + _REGARDS,
        ),
    ),
    Recipe(
        slots(room=_ROOM, mood=_MOOD, who=_WHO, time=_TIME),
        _asks(
            "My {room} is a huge mess, {who} is coming over {time} and I'm {mood}. Where do I even start?",
            "ugh, {who} wants me to clean the {room} {time} but I'm too {mood}. Motivate me please!",
        ),
        (
            _HI + " deep breath! Put on <loud music|a podcast|your favorite song>, set a timer for "
            "<ten|fifteen|twenty> minutes, and tackle one corner of the {room}. <Trash first|Laundry "
            "first|Dishes first>! {who} <won't judge|will be impressed>." + _BYE,
            "I get being {mood}! Trick: <clear the floor|make one pile|open a window> in the {room}, "
            "then <reward yourself|have a cookie|do a happy dance>. By {time} it'll <sparkle|look "
            "decent>, promise." + _BYE,
        ),
        (
            _DEAR
            + " To restore order to the {room}, I would suggest proceeding methodically, one section at a "
            "time. Feeling {mood} is understandable; {who} will surely value your effort." + _REGARDS,
        ),
    ),
    Recipe(
        slots(genre=_GENRE, who=_WHO, mood=_MOOD, likes=_LIKES),
        _asks(
            "Recommend a {genre} movie for {who} and me. We're both {mood} and love {likes}.",
            "need something {genre} to watch with {who}, nothing too long. Bonus points for {likes}!",
        ),
        (
            _HI + " movie night! Something {genre} with a bit of {likes} sounds <perfect|dreamy|great>. <Dim "
            "the lights|Make popcorn|Grab blankets>, let {who} <hold the remote|pick the snacks>, and "
            "<no phones|no spoilers>, deal?" + _BYE,
            "For a {genre} mood I'd pick a <classic|little indie film|cult favorite> <about|full of> "
            "{likes}. If {who} <falls asleep|gets bored|starts talking>, just <switch to cartoons|pause "
            "for ice cream>." + _BYE,
        ),
        (
            _DEAR + " A {genre} film concerning {likes} would appear to suit the occasion. I would recommend "
            "that you and {who} consult recent critical reviews prior to making your selection." + _REGARDS,
        ),
    ),
    Recipe(
        slots(who=_WHO, mood=_MOOD, dish=_DISH, time=_TIME),
        _asks(
            "I forgot to call {who} and now they won't talk to me. I feel {mood}. How do I say sorry {time}?",
            "had a big fight with {who} about {dish} of all things, lol. Now I'm {mood}. How do I fix it?",
        ),
        (
            _HI + " that sounds rough, no wonder you're {mood}. <Send a short text|Knock on the door|Write "
            'a tiny note> and say "I miss '
            "you and I'm sorry.\" Then <listen|offer a hug|cook {dish} together>. {who} <loves you|just "
            "needs time>." + _BYE,
            "It happens to <all of us|everyone|the best of us>! Tell {who} <how you feel|you goofed|the "
            "truth>, no excuses. Being {mood} <means you care|will pass>. Maybe bring {dish} as a <peace "
            "offering|funny gift>!" + _BYE,
        ),
        (
            _DEAR + " A sincere apology to {who} should acknowledge the error without qualification. It is "
            "commendable that you feel {mood}, for it demonstrates genuine consideration." + _REGARDS,
        ),
    ),
    Recipe(
        slots(mood=_MOOD, who=_WHO, likes=_LIKES, city=_CITY),
        _asks(
            "I can't sleep, I'm {mood} and keep thinking about moving to {city} without {who}. Talk to me?",
            "tell me a bedtime story about {who}, {likes} and the city of {city}. I'm {mood}!",
        ),
        (
            _HI + " come sit with me. <Once upon a time|One rainy evening|Long ago> in {city} there lived a "
            "<sleepy fox|tiny baker|brave snail> who dreamed of {likes}. It was {mood} too, until {who} "
            "<sang to it|waved hello>. <The end|Sweet dreams>!",
            "I'm right here! {city} will <still be there tomorrow|wait for you>, and so will {who}. "
            "<Breathe slowly|Sip some warm tea|Hug a pillow> and picture {likes}. Feeling {mood} at "
            "night is <so human|okay>. <Sleep tight|Goodnight>!",
        ),
        (
            _DEAR
            + " It is natural to feel {mood} when contemplating {city}. I would recommend a calm evening "
            "routine and, at a suitable hour, a candid conversation with {who}." + _REGARDS,
        ),
    ),
)


def sample(rng: np.random.Generator, style: str = "plain") -> Sample:
    """A user's turn and the assistant's."""
    return pick(rng, _RECIPES).sample(rng, "chat", style)
