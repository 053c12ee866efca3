"""English word lists for the tagger: closed classes, verbs that captions use, words that could be two things.

Plain facts about words, lower case. A noun needs no entry: it is what a word is when nothing says otherwise.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PRONOUNS = _words(
    "i me you he him she her it we us they them myself yourself himself herself itself ourselves yourselves who "
    "whom someone somebody everyone everybody anyone anybody nobody something anything nothing everything "
    "others another's one's mine yours hers theirs"
)
SUBJECT_PRONOUNS = _words("i he she they we who")
POSSESSIVES = _words("my your his her its our their")
DETERMINERS = POSSESSIVES | _words(
    "a an the this that these those some any no each every another both all several many few more most other "
    "various multiple numerous such same half either neither what which whose one two three four five six seven "
    "eight nine ten eleven twelve twenty first second third last next much lots plenty different"
)
# Determiners that are a noun phrase of their own where no noun follows.
PRONOMINAL = _words(
    "this that these those some each another both all several many few more most other various one two three "
    "four five six seven eight nine ten first second third last his"
)
RELATIVES = _words("who which that whom")
AUXILIARIES = _words(
    "am is are was were be been being isn't aren't wasn't 's 're 'm 've 'd 'll has have had having does do did "
    "doesn't don't didn't will would can could shall should may might must ca wo can't cannot couldn't won't"
)
BE = _words("am is are was were be been being 's 're 'm gets get got getting")
DO_HAVE = _words("has have had having does do did 's 'd 've")
MODALS = _words(
    "will would can could shall should may might must 'll 'd ca wo cannot can't couldn't won't does do did"
)
FINITE_AUXILIARIES = _words("am is are was were has had does did will would can could shall 's 're 've")
SENTENCE_ENDS = _words(". ; ! ? :")
CONJUNCTIONS = _words("and or but nor & plus")
SUBORDINATORS = _words(
    "while as when whilst because if until before after once since where whereas although though so how why "
    "what whether than then that"
)
PREPOSITIONS = _words(
    "aboard about above according across against along alongside among amongst around at atop away back behind "
    "below beneath beside besides between beyond by concerning despite down during except for forward from in "
    "including inside into like near next of off on onto out outside over past per regarding through throughout "
    "to together toward towards under underneath unto up upon via with within without"
)
PARTICLES = _words("up down off out away back over around along on in together forward about apart through by")
# Prepositions that stay one even right after the verb: what comes next decides for them.
TWO_WAY = _words("on in over around along through about by off down")
ADVERBS = _words(
    "abroad afterward afterwards again ahead almost alone already also always anyway apart around aside away "
    "back backward backwards close downstairs downwards else even eventually ever everywhere far fast finally "
    "first forth forward forwards fourth hard here high however indoors instead just later left low maybe "
    "meanwhile midair n't nearby never next not now occasionally often once online only otherwise outdoors "
    "overhead perhaps quickly quite rather really right sideways slowly solo sometime sometimes somewhere soon "
    "still straight suddenly then there therefore thus together too twice underwater upside upstairs upwards "
    "very well yet"
)
# Words in -ly that are none.
NOT_ADVERBS = _words(
    "belly family jelly reply supply apply rely multiply assembly bully ally curly ugly silly elderly"
)
ADJECTIVES = _words(
    "able acoustic additional adult african alone amazing american angry animated annoying asian asleep "
    "athletic awake bad bald bare beautiful beige best better big bigger biggest black blond blonde blue blurry "
    "bored bottom bright british brown busy calm certain challenging chinese chopped chubby clean clear closer "
    "cloudy cold colored colorful cool correct crazy curly cute dark deep different difficult digital dirty "
    "double dry dull easy elderly electric empty entire excited exciting fake famous fancy fast faster fat "
    "female final flat foreign fresh front full funny furry fuzzy gentle giant golden good grassy gray great "
    "green grey haired hairy happy hard heavy high higher hot huge icy important indian indoor inflatable "
    "injured inner interesting japanese large larger largest left light little live local long longer loud low "
    "lower main major male martial metallic minor muddy musical naked narrow new nice old older oncoming open "
    "opposing orange ornate outdoor outer own parallel parked perfect pink plastic popular possible pretty "
    "private professional proper public purple quick quiet rainy raw ready real rear red right rocky rough "
    "round sad same sandy scared several sexy shallow sharp shiny shirtless short shorter silly silver similar "
    "single sized skinny sliced slow slower small smaller smallest smooth snowy soft special square steep "
    "strange striped strong successful sunny sure tall taller thick thin tiny tired top uneven upcoming upper "
    "various warm weird wet white whole wide wild wooden wrong yellow young"
)
IRREGULAR = """
beat beat beaten | become became become | begin began begun | bend bent bent | bet bet bet | bind bound bound
| bite bit bitten | bleed bled bled | blow blew blown | break broke broken | bring brought brought |
build built built | burn burnt burnt | burst burst burst | buy bought bought | catch caught caught |
choose chose chosen | come came come | cut cut cut | deal dealt dealt | dig dug dug | dive dove dived |
draw drew drawn | drink drank drunk | drive drove driven | eat ate eaten | fall fell fallen | feed fed fed |
feel felt felt | fight fought fought | find found found | fly flew flown | fold folded folded |
freeze froze frozen | get got gotten | give gave given | go went gone | grind ground ground | grow grew grown
| hang hung hung | hear heard heard | hide hid hidden | hit hit hit | hold held held | hurt hurt hurt |
keep kept kept | kneel knelt knelt | know knew known | lay laid laid | lead led led | lean leant leant |
leap leapt leapt | leave left left | let let let | lie lay lain | light lit lit | lose lost lost |
make made made | mean meant meant | meet met met | pay paid paid | put put put | read read read |
ride rode ridden | ring rang rung | rise rose risen | run ran run | say said said | see saw seen |
seek sought sought | sell sold sold | send sent sent | set set set | sew sewed sewn | shake shook shaken |
shed shed shed | shine shone shone | shoot shot shot | show showed shown | shrink shrank shrunk |
shut shut shut | sing sang sung | sink sank sunk | sit sat sat | sleep slept slept | slide slid slid |
speak spoke spoken | spend spent spent | spin spun spun | spit spat spat | split split split |
spread spread spread | spring sprang sprung | stand stood stood | steal stole stolen | stick stuck stuck |
strike struck struck | string strung strung | sweep swept swept | swim swam swum | swing swung swung |
take took taken | teach taught taught | tear tore torn | tell told told | think thought thought |
throw threw thrown | understand understood understood | wake woke woken | wear wore worn | weave wove woven |
win won won | wind wound wound | write wrote written
"""
REGULAR = _words(
    "accelerate accept accompany ache acknowledge acquire act add address adjust admire advance advertise affix "
    "agree aim alight align allow alternate analyze announce answer apologize appear appease applaud apply "
    "approach argue arrange arrive ask assemble assist attach attack attempt attend audition avoid await back "
    "bake balance bandage bang bark bat bathe battle beckon beg behave belong bike blast bleach blend blink "
    "block blur board bob boil bolt bore bounce bow bowl box brace brag braid breathe browse brush buff bump "
    "bungee bury buzz call calm camouflage camp capture caress carry cartwheel carve cast cause celebrate "
    "change chant charge chase chat check cheer chew chop chuck chug circle clap clasp clean clear clench click "
    "climb cling clip close coach coat collapse collect collide color comb combine comment commentate "
    "communicate compare compete compile complain complete concentrate conclude conduct confront congratulate "
    "connect consist construct contain continue contort control converge converse convince cook cool cop copy "
    "correct cough count cover crack crash crawl create crochet croon cross crouch crowd cruise crunch crush "
    "cry cuddle curl cycle dab dance dangle dart dash deal decide decorate defeat defend deliver demonstrate "
    "depict descend describe design destroy detach determine develop dice die dine dip direct disappear discuss "
    "dismount disperse display dispute dissolve distract dock document dodge download drag drain dress dribble "
    "drift drill drip drop drum dry dump dunk dust earn edge edit embrace emerge emphasize empty encounter "
    "encourage end engage enjoy enter entertain escape examine exchange execute exercise exhale exhibit exit "
    "expand explain explode explore express extend face fade fail fan fasten feature fence fetch fiddle file "
    "fill film finish fire fish fit fix flail flap flash flatten flee flex flick flicker flip float flop flow "
    "focus follow force form frost frown fry fumble function gain gallop gasp gather gaze gesture giggle glance "
    "glide glow glue grab grasp grate graze greet grill grin grind grip grit groom grunt guard guide hack "
    "hammer hand handle happen harness head heat help hike hint hoist hook hop host hover huddle hug hula hunt "
    "hurdle hurl hurry ignite illustrate imitate impale impress improve include increase indicate inflate "
    "inform inhale insert inspect install instruct interact interrupt interview introduce iron jab jerk jog "
    "join joke judge juggle juice jump kayak kick kill kiss knead kneel knit knock lace land lasso last lather "
    "laugh launch learn lecture lick lift like line linger link list listen live load lock look loop loosen "
    "love lower lunge maintain manage maneuver manipulate march mark mash massage match measure melt mention "
    "meow mess mime mimic miss mix moan mock model mop mount mourn mouth move mow narrate navigate need nod "
    "notice observe obstruct obtain occur offer oil ollie open operate order overturn pace pack paddle paint "
    "pan parade park parody part participate pass paste pat pause pedal peddle peel peer perform pet pick "
    "picture pierce pile pin pinch pitch pivot place plan plant plaster play plow pluck plunge point poke "
    "polish pop pose position pounce pour practice praise prance pray preform preheat prep prepare present "
    "press pretend prevent prick print proceed produce progress promote prop propel protect protest prove "
    "provide prune puff pull pump punch purchase push quit quiz race rack raft rain raise rake ramble rap "
    "rappel rate reach react realize reappear rearrange receive recite recline record reel refer reflect relax "
    "release remain remove repair repeat replace replay reply report represent rescue respond rest resume "
    "retreat retrieve return reveal reverse review revolve ride rinse rip roam roast rock roll rollerblade "
    "rotate row rub ruin rush sail salute sand saute sauté save saw scale scare scatter scoop score scramble "
    "scrape scratch scream screw scroll scrub scuba sculpt sculpture seal search season seat secure seem select "
    "separate serve set shampoo shape share sharpen shave shear shift shimmy shoe shop shout shove shovel "
    "showcase shower shred shrug shuffle sign signal simmer simulate sip sizzle skate skateboard ski skip "
    "skydive slam slap slice slip slow slurp smack smash smear smell smile smoke smooth smoothen snap sneak "
    "sniff snip snorkel snort snow snowboard soak soap soar solve somersault sound spar spark spatter speed "
    "spell spike spill splash splatter sponge spot sprawl spray sprinkle sprint squat squeeze squirt squish "
    "stab stack stage stagger staple stare start state stay steam steer step stir stitch stop straddle "
    "straighten strain strap stretch strip stroke stroll struggle strum study stuff stumble style submerge "
    "subscribe succeed suck suggest supervise support surf surround suspend swallow swap swat sway swirl swish "
    "switch swoop tackle talk tap tape taste tattoo tease tend test thank thrash thread threaten thrust thump "
    "tickle tie tighten tile tilt time tip tire toast toss touch tour tow trace trade trail train transform "
    "transition translate trap travel treat trek tremble trick trim trip trot try tuck tug tumble tune turn "
    "tutor twirl twist type unbox undress unfold unhook unpack unroll unscrew untie unveil unwrap urge use "
    "utilize vacuum vary vault venture view visit volley vote wad wade wag wail wait walk wander want warm warn "
    "wash watch water waterski wave wax weigh weld wet whack wheel whip whisk whisper whistle wiggle wink wipe "
    "wish witness wobble work worry wrap wrestle yank yawn yell zip zoom"
)

# Verbs that are nouns far more often in captions: a verb only where the grammar leaves no other reading.
NOUN_FIRST = _words(
    "back bar bat bench board bob bow bowl box brush calm camp cap cast catch circle click clip coach coat "
    "color comb cook cop cough crowd cup cut dance dart dash deal design dive dock document download dress "
    "drill drink drop drum duck dust edge edit empty end exercise eye face fan feature fence file film finger "
    "finish fire fish fit flip floor fly fold form front ground guard guide hammer hand harness head heat hit "
    "hold hook host hula interview iron jerk judge jump kayak kick lace lead lecture light like line link list "
    "lock loop mark mass match model mop mouth nail number oil paddle paint pan parade park part pass paste "
    "pedal pet picture pile pin pitch plan plant plaster play point pole pool position pot powder print punch "
    "race rack raft rain rake rap rate razor record replay report rest review ring rock roll rope row run sand "
    "saw scale score screw scuba seal season seat serve set shake shape shave shoe shop shot shoulder shovel "
    "show shower sign signal skate skateboard ski slide smile smoke snow snowboard soap sound speed spike spin "
    "sponge sport spot stage stand staple star start state step stick stitch stone strap string strip study "
    "stuff style surf swing tape target test thread throw tie tile time tip tire top track trail train trap "
    "trick trim trip tube tune turn twist type vault video view volley vote walk watch water wave wax well wet "
    "wheel wind word work workout wrestling"
)
# Of these, the ones whose form in -s is a verb: "a jump" but "she jumps".
VERB_IN_S = _words(
    "jump run walk dance dive kick punch shake shave throw catch hit spin flip turn twist pass serve slide rest "
    "hold stand paint play cook start finish watch lead swing end race form point smile show fly jerk test "
    "record sail stick spot trim fold report cut"
)
# Nouns in -ing, where no verb is meant unless an auxiliary stands before them.
ING_NOUNS = _words(
    "building buildings thing things something anything nothing everything ceiling clothing ring string king "
    "wing evening morning spring wedding ping railing beijing lightning earring icing dressing being offspring "
    "viking ming ding flooring lettering packaging engineering marketing manufacturing roofing pudding gaming "
    "sledding golfing sibling duckling darling sterling bling boxing kickboxing paintballing hurling curling "
    "parkour parasailing"
)
# Words in -ing that begin the name of a thing: "mixing bowl".
ING_COMPOUNDS = {
    "mixing": _words("bowl bowls"),
    "cutting": _words("board boards mat"),
    "chopping": _words("board boards block"),
    "frying": _words("pan pans"),
    "cooking": _words("pot pan show oil utensils class"),
    "baking": _words("sheet pan tray dish powder soda tin"),
    "boiling": _words("water"),
    "boxing": _words("ring gloves match gym bag"),
    "swimming": _words("pool pools suit trunks"),
    "diving": _words("board boards platform gear"),
    "bowling": _words("alley ball balls pins lane lanes"),
    "parking": _words("lot lots garage"),
    "living": _words("room rooms"),
    "dining": _words("room table"),
    "fishing": _words("pole rod line boat hole"),
    "rowing": _words("machine machines boat"),
    "sewing": _words("machine"),
    "washing": _words("machine"),
    "skating": _words("rink ring"),
    "marching": _words("band bands"),
    "running": _words("shoes track water"),
    "wrapping": _words("paper"),
    "knitting": _words("needle needles"),
    "ironing": _words("board boards"),
    "climbing": _words("wall walls gear rope"),
    "shaving": _words("cream foam razor"),
    "polishing": _words("cloth"),
    "training": _words("room gym video session"),
    "playing": _words("field cards card"),
    "shooting": _words("range"),
    "closing": _words("credits scene screen"),
    "opening": _words("scene screen title credits shot"),
    "ending": _words("credits screen scene credit"),
    "painting": _words("supplies"),
    "welding": _words("mask helmet machine"),
    "measuring": _words("cup cups tape"),
    "drinking": _words("glass water"),
    "steering": _words("wheel"),
    "sailing": _words("boat boats"),
    "riding": _words("mower lawn lawnmower"),
    "blocking": _words("gloves"),
    "cooling": _words("glass glasses"),
    "serving": _words("dish bowl plate"),
    "piercing": _words("ring gun"),
    "rafting": _words("trip boat"),
    "roofing": _words("material tiles"),
    "wrestling": _words("match mat ring"),
    "snowboarding": _words("lifts"),
    "driving": _words("range"),
    "talking": _words("heads"),
}
# Of these, the ones that are as often the verb: "begins drinking water".
ACTIVE_ING = _words("playing cooking opening closing drinking boiling climbing welding riding driving running")
ED_OTHERS = _words(
    "red bed shed sled seed weed speed feed need bleed naked ted united hundred wicked moped sacred tweed"
)

# "is seen speaking": the verb after the participle carries the action.
PERCEPTION = _words("see show watch capture film picture feature hear find depict display")
# Verbs whose object does what the infinitive after it says.
OBJECT_CONTROL = _words(
    "ask tell help allow enable prompt teach want get force cause encourage invite let make instruct lead order "
    "urge train wait see watch hear show"
)
BARE_INFINITIVE = _words("help let make see watch hear")
# "transitions to him hitting the ball": what comes after is a new picture.
SCENE_CHANGE = _words("lead transition switch cut change shift fade pan zoom move end")
# Participles that describe what stands before them, alive or not: "the snow covering the window".
STATIVE = _words("cover surround contain feature hang consist attach float flow burn")
# Verbs that need an object: in "washes and dries the car" both have it.
TRANSITIVE = _words(
    "add adjust apply assemble attach bake beat bounce break bring brush carry catch chop clean collect comb "
    "crack create cut decorate describe discuss dry fix fold give grab grill grind groom hit hold hug insert "
    "inspect iron kick kiss knead lift load lower make measure mix mop mow paint peel pet place polish prepare "
    "press pull push put raise rake remove repair rinse roll rub sand scrub season sharpen shave shear slice "
    "spray spread squeeze stir style sweep take throw tie toss touch towel trim tune untie use vacuum wash wax "
    "weld wipe wrap"
)

# Nouns and pronouns of those who act: a participle after them is theirs.
ANIMATE = _words(
    "actor actors actress adult adults anchor animal animals announcer another anyone artist artists athlete "
    "athletes audience babies baby band barber bartender batman batter bear bicyclist biker bikers bird birds "
    "bowler boxer boxers boy boys bride brother bull calf camel camels cat cats character characters "
    "cheerleader cheerleaders chef child children climber climbers clown coach commentator competitor "
    "competitors contestant contestants cook cop couple cow cowboy cowboys cows crowd customer dad dancer "
    "dancers daughter diver divers doctor dog dogs dolphin driver drummer elephant everyone families family fan "
    "fans father female females fighter fighters fish friend friends gentleman gentlemen girl girls goalie goat "
    "groom group groups guitarist guy guys gymnast gymnasts hairdresser hamster he her hero him horse horses "
    "host hostess human humans i individual individuals instructor interviewer jockey judge judges kayakers kid "
    "kids king kitten ladies lady lawyer leader lifeguard lion lot magician male males man matador me member "
    "members men model models mom monkey mother musician musicians narrator newscaster number nurse officer one "
    "opponent opponents others owl painter parrot partner passenger patient people performer performers person "
    "persons pig pilot pitcher player players police presenter president prince princess puppies puppy queen "
    "rabbit rafters referee reporter rider riders robot runner runners shark she sheep singer singers sister "
    "skateboarder skater skaters skier skiers snake snowboarder snowboarders soldier soldiers somebody someone "
    "son speaker spectators spider spongebob student students stylist surfer surfers swimmer swimmers tattooist "
    "teacher team teammate teammates teams teen teenager teenagers teens them they tiger toddler toddlers us "
    "villain we whale who woman women worker workers wrestler wrestlers you"
)

PLURALS = _words(
    "people men women children others they we you kids guys feet teeth police crew crowd team band group "
    "audience couple family all both some many most several few"
)


def _doubled(base: str) -> bool:
    """Whether the last consonant doubles before -ing: one vowel letter before one consonant, one syllable."""
    vowels = sum(letter in "aeiouy" for letter in base)
    return vowels == 1 and len(base) > 2 and base[-1] not in "aeiouywx" and base[-2] in "aeiou"


def _forms() -> dict[str, dict[str, str]]:
    """``{word: {form: base}}``; forms are base, s, ing, past and part (the past participle)."""
    forms: dict[str, dict[str, str]] = {}

    def add(word: str, form: str, base: str) -> None:
        forms.setdefault(word, {}).setdefault(form, base)

    irregular = {base: (past, part) for base, past, part in (row.split() for row in IRREGULAR.split("|"))}
    irregular |= {"do": ("did", "done"), "have": ("had", "had")}
    for base in irregular:
        add(irregular[base][0], "past", base)
        add(irregular[base][1], "part", base)
    for base in sorted(REGULAR | irregular.keys()):
        add(base, "base", base)
        sibilant = base.endswith(("s", "sh", "ch", "x", "z", "o"))
        consonant_y = base.endswith("y") and base[-2] not in "aeiou"
        add(base[:-1] + "ies" if consonant_y else base + ("es" if sibilant else "s"), "s", base)
        stem = base[:-1] if base.endswith("e") and not base.endswith(("ee", "oe", "ye")) else base
        stem = stem + base[-1] if _doubled(base) else stem
        add(base[:-2] + "ying" if base in {"lie", "tie", "die", "untie"} else stem + "ing", "ing", base)
        if base not in irregular:
            past = base[:-1] + "ied" if consonant_y else stem + "ed"
            add(past, "past", base)
            add(past, "part", base)
    for word, base in (
        ("beginning", "begin"),
        ("has", "have"),
        ("travelling", "travel"),
        ("unwrapping", "unwrap"),
    ):
        add(word, "s" if word == "has" else "ing", base)
    return forms


FORMS = _forms()


def manner_adverb(word: str) -> bool:
    """Whether a lower-case word is an adverb in -ly."""
    return word.endswith("ly") and len(word) > 4 and word not in NOT_ADVERBS


def noun_first(word: str) -> bool:
    """Whether a lower-case verb form is more often a noun in captions: "hands", "jump", but not "jumps"."""
    base = FORMS.get(word, {}).get("s")
    return word in NOUN_FIRST if base is None else base in NOUN_FIRST - VERB_IN_S


def verb_forms(word: str) -> dict[str, str]:
    """What forms of which verb a lower-case word may be, ``{form: base}``; endings tell for unknown words.

    Forms are ``base``, ``s``, ``ing``, ``past`` and ``part`` (past participle). Empty: no verb form.
    """
    known = FORMS.get(word)
    if known is not None or len(word) < 5:
        return known or {}
    vowel = any(letter in "aeiouy" for letter in word[:-3])
    if word.endswith("ing") and vowel and word not in ING_NOUNS:
        return {"ing": word[:-3]}
    if word.endswith("ed") and vowel and not word.endswith("eed") and word not in ED_OTHERS:
        return {"past": word[:-2], "part": word[:-2]}
    return {}
