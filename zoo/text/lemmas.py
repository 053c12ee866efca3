"""Lemmas of English words in captions, from rules and short tables: nothing is downloaded.

The conventions for nouns are those of the classes of ActivityNet-Entities: a pronoun's lemma is its subject form
(him, his -> he), and words such as pants or scissors keep their s.
"""

from __future__ import annotations

import re

# lemma:forms that no rule leads back to; of nouns and pronouns
_NOUN_FORMS = """
he:him,his,hes she:her,hers,shes they:them,their,theirs we:us,our,ours i:me,mine
child:children foot:feet tooth:teeth goose:geese mouse:mice louse:lice ox:oxen
knife:knives wife:wives life:lives leaf:leaves loaf:loaves calf:calves half:halves elf:elves shelf:shelves
self:selves wolf:wolves thief:thieves scarf:scarves hoof:hooves wharf:wharves dwarf:dwarves
bookshelf:bookshelves housewife:housewives
analysis:analyses crisis:crises thesis:theses hypothesis:hypotheses
ax:axes ache:aches headache:headaches toothache:toothaches cache:caches avalanche:avalanches
mustache:mustaches moustache:moustaches quiche:quiches niche:niches
bus:buses gas:gases lens:lenses virus:viruses walrus:walruses cactus:cactuses bonus:bonuses chorus:choruses
circus:circuses campus:campuses octopus:octopuses iris:irises atlas:atlases canvas:canvases focus:focuses
christmas:christmases quiz:quizzes
shoe:shoes horseshoe:horseshoes snowshoe:snowshoes canoe:canoes toe:toes tiptoe:tiptoes hoe:hoes foe:foes
oboe:oboes aloe:aloes
cookie:cookies movie:movies selfie:selfies hoodie:hoodies zombie:zombies brownie:brownies smoothie:smoothies
goalie:goalies rookie:rookies birdie:birdies veggie:veggies hippie:hippies calorie:calories magpie:magpies
walkie:walkies talkie:talkies prairie:prairies freebie:freebies doggie:doggies
ski:skis taxi:taxis kiwi:kiwis bikini:bikinis khaki:khakis menu:menus emu:emus tutu:tutus
"""

# nouns in s without another singular, and words that only look like plurals
_NOUNS_AS_THEY_ARE = """
clothes darts pants news scissors series shorts supplies teens tennis themselves its species
biceps triceps jeans trousers goggles tights binoculars pliers tweezers tongs shears overalls pajamas billiards
headquarters gymnastics athletics aerobics acrobatics mathematics physics politics graphics olympics thanks suds
christmas gas canvas atlas bias lens texas kansas chaos thermos cosmos mrs specimen abdomen omen amen ramen
yes was has does always perhaps sometimes besides across whereas ourselves yourselves afterwards towards outdoors
"""

# lemma:forms of verbs
_VERB_FORMS = """
be:am,is,are,was,were,been,'m,'re,'s have:has,had,'ve do:does,did,done go:goes,went,gone come:came become:became
overcome:overcame run:ran sit:sat see:saw,seen say:said get:got,gotten forget:forgot,forgotten give:gave,given
take:took,taken mistake:mistook,mistaken make:made ride:rode,ridden write:wrote,written drive:drove,driven
rise:rose,risen arise:arose,arisen strike:struck,stricken stride:strode break:broke,broken speak:spoke,spoken
wake:woke,woken awake:awoke steal:stole,stolen freeze:froze,frozen choose:chose,chosen weave:wove,woven
hide:hid,hidden slide:slid bite:bit,bitten light:lit eat:ate,eaten beat:beaten fall:fell,fallen draw:drew,drawn
throw:threw,thrown blow:blew,blown grow:grew,grown know:knew,known fly:flew,flown show:shown wear:wore,worn
tear:tore,torn swear:swore,sworn bear:bore,borne begin:began,begun swim:swam,swum sing:sang,sung ring:rang,rung
drink:drank,drunk sink:sank,sunk shrink:shrank,shrunk spring:sprang,sprung spin:spun win:won hang:hung
swing:swung sting:stung fling:flung sling:slung cling:clung string:strung wring:wrung stick:stuck dig:dug
stand:stood understand:understood hold:held tell:told sell:sold find:found wind:wound bind:bound grind:ground
feed:fed lead:led bleed:bled breed:bred speed:sped meet:met shoot:shot fight:fought catch:caught teach:taught
bring:brought buy:bought think:thought seek:sought keep:kept sleep:slept sweep:swept weep:wept creep:crept
kneel:knelt feel:felt deal:dealt mean:meant leap:leapt leave:left lose:lost build:built bend:bent lend:lent
send:sent spend:spent hear:heard pay:paid lay:laid lie:lain,lying die:dying tie:tying dye:dyed,dyeing
eye:eyed,eyeing ski:skis,skied canoe:canoes,canoed shoe:shoes,shoed untie:unties,untied,untying
shake:shook,shaken shave:shaven overlay:overlaid focus:focuses something:something anything:anything
everything:everything nothing:nothing during:during
"""

# bases that end in e, or do not, against the rules of `_base`
_WITH_E = """
ach breath bath sunbath cloth loath sooth writh bast hast past tast wast guid creat recreat
welcom becom overcom upcom oncom requir acquir interfer explor ignor restor ador
chang exchang arrang rearrang rang challeng plung lung loung cring hing spong fring aveng scaveng
compet complet delet invit unit excit ignit recit rewrit promot devot execut contribut distribut comput disput
salut parachut substitut inhal exhal compil reconcil schedul escap landscap reshap videotap telescop
postpon conven interven
"""
_WITHOUT_E = "focus bias canvas bus gas combat format collar murmur"


def _table(lines: str) -> dict[str, str]:
    """Form -> lemma."""
    pairs = (entry.split(":") for entry in lines.split())
    return {form: base for base, forms in pairs for form in forms.split(",")}


_NOUN = _table(_NOUN_FORMS) | {word: word for word in _NOUNS_AS_THEY_ARE.split()}
_VERB = _table(_VERB_FORMS)
_BASE = {stem: stem + "e" for stem in _WITH_E.split()} | {stem: stem for stem in _WITHOUT_E.split()}

_VOWELS = re.compile(r"[aeiou]+|(?<=[^aeiou])y")  # groups of them, about as many as syllables
_SHORT = re.compile(r"(?:qu|[^aeiou])*[aeiouy][^aeiouwxy]")  # mak(e), typ(e), us(e), quot(e)
_E_FOLLOWS = re.compile(
    r"""(?: [cuv] | (?<![tz])z | (?<!s)s      # dance, continue, move, size, use, rinse
          | [aeioudlr]g                       # manage, nudge, bulge, charge
          | [bcdfgkptz]l )$                   # juggle, sprinkle""",
    re.VERBOSE,
)
_E_FOLLOWS_ONE_VOWEL = re.compile(  # decorate, admire, combine, but treat, visit
    r"(?<![aeiou])(?:at|[aiou]d|[uai]r|in|ak|ok|ib|um)$|[iu]at$"
)


def lemma(word: str, verb: bool = False) -> str:
    """Base form of an English word, in lower case.

    Args:
        word: one word, without spaces.
        verb: it is used as a verb (running -> run), otherwise as a noun or pronoun (running -> running, dishes ->
            dish). Words of other kinds stay as they are.
    """
    word = word.lower()
    if not verb:
        return _NOUN.get(word) or (word[:-2] + "an" if word.endswith("men") else _without_s(word))
    if word in _VERB:
        return _VERB[word]
    if word.endswith("ing") and _VOWELS.search(word[:-3]):
        return _base(word[:-3])
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-3] + "y"
    if word.endswith("ed") and _VOWELS.search(word[:-2]) and not word.endswith("eed"):
        return _base(word[:-2])
    return _without_s(word)


def _without_s(word: str) -> str:
    """A plural's singular, or the base of a verb's third person."""
    if len(word) < 3 or not word.endswith("s") or word.endswith(("ss", "us", "is", "'s")):
        return word
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "xes", "sses", "zzes", "tzes", "oes")) else word[:-1]


def _base(stem: str) -> str:
    """A verb's base from what stands before -ing or -ed."""
    if stem in _BASE:
        return _BASE[stem]
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiousfz":
        pull = stem[-1] == "l" and len(_VOWELS.findall(stem)) == 1
        return stem if pull or stem.endswith(("call", "fall", "fill", "stall", "nroll")) else stem[:-1]
    if _E_FOLLOWS.search(stem) or _E_FOLLOWS_ONE_VOWEL.search(stem) or _SHORT.fullmatch(stem):
        return stem + "e"
    return stem
