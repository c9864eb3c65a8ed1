"""What secrets look like: tokens by how they begin, and what stands where a secret does.

Each shape comes with a literal that a text must hold, so that most of them cost a text no more than that search. No
quantifier that something else must follow is unbounded, so the time for a text is proportional to its length, whatever
it says.

What detect-secrets knows by shape is taken from there. Own is the rest: the providers that this field meets and it
doesn't know; JWT, OpenAI's and npm's tokens, for which its patterns take quadratic time; private keys, of which it finds
the first line; AWS, Telegram and Discord, where it takes digests with a number before them for tokens. Its detectors of
entropy and keywords are left out, because every hash, seed and `eos_token` is a secret to them.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

# How tokens begin, by what must follow.
_TOKENS = {
    r"[\w-]{20}": """
        github_pat_ gloas- dckr_pat_ dckr_oat_ hf_oauth_ CCIPAT_ sk-ant- sk-proj- sk-svcacct- sk-admin- sk-or- sk-lf-
        sk-helicone- nvapi- tgp_v1_ esecret_ tvly- jina_ pcsk_ ya29. GOCSPX- tskey- hvs. hvb. sb_secret_ figd_ wandb_v1_
        pypi-Ag lsv2_ cfut_ cfat_ PRVTKEY- sntryu_ NRII-""",
    r"[\w.+/=-]{40}": """
        1//0 eyJhcGlf ATATT3 ATCTT3 ops_eyJ fo1_ fm1r_ fm1a_ fm2_ sntrys_ t1.9eu y0_Ag pscale_tkn_ pscale_pw_""",
    r"[A-Za-z0-9]{28}": """
        hf_ npm_ gsk_ xai- pplx- r8_ rpa_ api_org_ pnu_ pnb_ ATBB nfp_ rnd_ ntn_ lin_api_ lin_oauth_ phx_ phc_ glsa_
        sess- bkua_ sqp_ squ_ rubygems_ sbp_ dapi dop_v1_ doo_v1_ dor_v1_ pul- shpat_ shpss_ tgp_ AGE-SECRET-KEY-1""",
    r"[A-Za-z0-9+/]{24}": "rk_test_ sk_test_ whsec_ ABSK glc_ vcp_",
    # What words begin with, too: with a digit, and nothing but letters and digits.
    r"(?=[A-Za-z]{0,80}\d)[A-Za-z0-9]{20}": "sk- csk- fw_ secret_ ak- as- pa- LTAI",
    r"(?=[\w-]{0,80}\d)[\w-]{10}": "xapp- xoxe- xoxa- xoxb- xoxc- xoxd- xoxo- xoxp- xoxr- xoxs-",
    r"[A-Z0-9]{16}(?![A-Za-z0-9])": "AKIA ASIA",
    r"[\w-]{35}": "AIza AQVN",
    r"[0-9a-f]{32}(?![\w-])": "fc- key- Key-",
    r"[0-9a-f]{32}": "sk_ xkeysib- PMAK- v1.0-",
    r"[a-z0-9]{32}": "AC SK",
    r"[A-Z0-9]{24}": "NRAK- dt0c01. dt0s16.",
    r"[0-9a-f-]{36}": "pat-na1- pat-eu1- HRKU-",
    r"(?:pt|st|ct|sa|scim|audit)\.[\w.-]{30}": "dp.",
    r"\d\d\$[./\w]{53}": "$2a$ $2b$ $2y$",
    r"[./\w$=,+-]{30}": "$5$ $6$ $apr1$ $argon2",
    r"[A-Za-z0-9]{8}_[A-Za-z0-9]{16}": "re_",
    r"[\w-]{20}\.[\w-]{20}": "sk.eyJ",
    r"[A-Za-z0-9]{14}\.[0-9a-f]{64}": "pat",
    # Discord's begin with a number in base64.
    r"(?=[A-Za-z0-9]{0,4}[0-9])[A-Za-z0-9]{15,30}\.[\w-]{6}\.[\w-]{27}": """
        MTA MTE MTI MTM MTQ MTU Nz Nj Nk OD OT Mj Mz ND NT""",
    # A JSON web token; of what it consists is told by dots.
    r"[\w-]{8,400}+(?:\.[\w=+/-]*+){1,4}+": "eyJ",
}
# A whole shape by a literal in it: a secret of Entra, Terraform's, Telegram's.
_SHAPES = (
    ("Q~", r"[\w~.-]{3}\dQ~[\w~.-]{31,34}"),
    (".atlasv1.", r"[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60}"),
    (":AA", r"\d{8,10}:AA[\w-]{33}(?![\w-])"),
)
_DETECTORS = {
    "GitHubTokenDetector": "ghp_ gho_ ghu_ ghs_ ghr_",
    "GitLabTokenDetector": "glpat- gldt- glft- glsoat- glrt- GR1348941 glcbt- glimt- glptt- glagent-",
    "SlackDetector": "hooks.slack.com",
    "SquareOAuthDetector": "sq0csp-",
    "SendGridDetector": "SG.",
    "StripeDetector": "k_live_",
    "AzureStorageKeyDetector": "AccountKey=",
    "MailchimpDetector": "-us1 -us2 -us3 -us4 -us5 -us6 -us7 -us8 -us9",
}
_TYPED = r"[^\s'\"-][^\s'\"]{3,200}"
_KEY_TYPE = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?"
_KEY_BODY = r"[\w+/=]{15}"
_FLAGS = r"(?:\s--?[\w=.:/-]{1,100}+(?:\s[\w.:/-]{1,60}+(?=\s))?){0,6}?"
_QUOTE = r"\\{0,3}[\"']?"
# Secrets of any look, by what stands around them: the literal, what stays, what goes.
_PLACES = (
    # A whole key; of one that was cut off, the rest of the text.
    (
        "-----BEGIN",
        "",
        rf"-----BEGIN {_KEY_TYPE}-----(?=\s?{_KEY_BODY}|[^\n\\]{{0,9}}(?:\n|\\{{1,4}}[nr])[\s\S]{{0,200}}?{_KEY_BODY})"
        rf"[\s\S]*?(?:-----END {_KEY_TYPE}-----|\Z)",
    ),
    ("Private-Lines:", r"Private-Lines: \d{1,4}\s{1,4}", r"(?:[\w+/=]{1,80}\s{1,4})+"),
    # User and password of an address, or a token alone; where clouds name a container so, it is no token.
    ("://", "://", r"[^/\s:@{$<\"'`]{0,200}:(?![\s{$<])[^/\s]{1,400}(?=@(?!sha\d))"),
    (
        "://",
        r"://(?<!abfs://)(?<!abfss://)(?<!wasb://)(?<!wasbs://)",
        r"(?=[\w.~%+=-]{0,80}\d)(?=[\w.~%+=-]{0,80}[A-Za-z])[\w.~%+=-]{16,400}(?=@(?!sha\d))",
    ),
    # Addresses that whoever knows them can post to.
    ("webhook", r"(?:discord|discordapp)\.com/api/(?:v\d{1,2}/)?webhooks/\d{5,25}/", r"[\w-]{20,}"),
    ("webhook", r"webhook\.office\.com/webhookb2/", r"[\w@/-]{40,}"),
    ("hooks/catch", r"hooks\.zapier\.com/hooks/catch/", r"\d+/\w+"),
    ("api.telegram.org/bot", r"api\.telegram\.org/bot", r"\d{6,12}:[\w-]{20,}"),
    # Headers.
    ("earer", r"[Bb]earer[\s:]{1,3}", r"(?=\S{0,80}[0-9=])[\w.~+/=-]{16,}"),
    ("EARER", r"BEARER[\s:]{1,3}", r"(?=\S{0,80}[0-9=])[\w.~+/=-]{16,}"),
    ("asic", r"[Bb]asic\s", r"(?=\S{0,80}[0-9=])[\w.~+/=-]{16,}"),
    # Commands that take a secret as an argument of no telling name.
    ("wandb", rf"wandb\slogin{_FLAGS}\s", r"(?=[\w-]{0,80}\d)[\w-]{30,}"),
    ("wandb.login", rf"wandb\.login\([^)\n]{{0,100}}?key\s?=\s?{_QUOTE}", r"[\w-]{30,}"),
    ("sshpass", r"sshpass\s{1,4}-p\s{0,4}['\"]?", r"[^\s'\"]{1,200}"),
    ("login", rf"(?:docker|podman|oras|registry|skopeo|az)\slogin{_FLAGS}\s-p[\s=]{{0,2}}{_QUOTE}", _TYPED),
    ("add-authtoken", r"add-authtoken\s", r"[\w-]{20,}"),
    ("mc alias", r"mc\salias\sset\s\S{1,60}\s\S{1,200}\s\S{1,100}\s", r"[^\s'\"]{8,200}"),
    ("http", rf"(?:http|https|xh){_FLAGS}\s-a\s{_QUOTE}[^\s:\"'$]{{1,100}}:", r"[^\s\"'$]{2,200}"),
    ("/t/", r"//[\w.-]{1,100}/t/", r"(?:[A-Za-z0-9]{20,}|[a-z]{2}-[0-9a-f-]{36})(?=/)"),
    ("pass:", r"-pass(?:in|out)?\s{1,3}pass:", _TYPED),
    ("AKIA ASIA", r"A[KS]IA[A-Z0-9]{16}:", r"[\w+/]{36,}"),
    ("sqlcmd bcp zip ldapsearch", rf"(?:sqlcmd|bcp|zip|ldapsearch){_FLAGS}\s-[Pw]\s{_QUOTE}", _TYPED),
    ("redis-cli", rf"redis-cli{_FLAGS}\s-a\s{_QUOTE}", r"[^\s'\"]{4,200}"),
    ("mysql", rf"mysql(?:dump|admin)?{_FLAGS}\s-p{_QUOTE}", _TYPED),
    (
        "curl",
        rf"curl(?:\s{{1,20}}[^\s]{{1,200}}+){{0,20}}?\s{{1,20}}-[A-Za-z]{{0,6}}[uU]\s?{_QUOTE}[^\s:\"'$]{{0,100}}:",
        r"[^\s\"'$]{1,200}",
    ),
    ("-user", rf"--(?:proxy-)?user[\s=]{_QUOTE}[^\s:\"'$]{{1,100}}:", r"(?!\d{1,6}(?:\s|$))[^\s\"'$]{2,200}"),
    # Files of credentials.
    ("</", r"<[\w:.-]{0,40}(?i:password|passwd|token|secret|api[_-]?key)>", r"[^<\s]{6,400}(?=</)"),
    ("password", r"(?:login|account|machine)\s{1,20}\S{1,200}\s{1,20}password\s{1,20}", r"\S{1,500}"),
    ("\"key\"", r"\"username\"\s{0,4}:\s{0,4}\"[^\"\s]{1,80}\",\s{0,4}\"key\"\s{0,4}:\s{0,4}\"", r"[0-9a-f]{32}"),
    (":", r":(?<=[\w.*-]:)(?:5432|5433|6432|\*):[^:\s]{1,64}:[^:\s]{1,64}:", r"(?=[^\s:]{0,60}[\d!@#%^&])[^\s:]{6,200}"),
    # Connection strings, signed addresses.
    (";", r";\s?(?:[Pp]wd|PWD|[Pp]assword|PASSWORD)\s?=\s?", r"[^;\s\"']{1,200}"),
    ("ignature=", r"(?:-|[?&]|%26)[Ss]ignature=", r"[\w%+/=~-]{16,}"),
    ("account.key.", r"account\.key\.[\w.]{1,100}\s?[=:]?\s?", r"[\w+/=]{40,}"),
    ("sig=", r"(?:[?&;\s]|%26)sig=", r"[\w%+/=~-]{16,}"),
)  # fmt: skip
# A shape takes the rest of its word along; those of GitLab go on behind dots.
_REST = r"(?:\.\w{2}\.\w{7,})?+"
# A shape begins a word; so does what an escaped character or a colour of the terminal stands before.
_BEGIN = (r"(?<![A-Za-z0-9]{})", r"(?<=\\[nrt]{})", r"(?<=%[0-9A-Fa-f]{{2}}{})", r"(?<=[\[;]\dm{})", r"(?<=\d\dm{})")


@cache
def rules() -> tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]:
    """Patterns, each with literals of which a text must hold one; what stays of a match is its group `keep`."""
    return tuple((tuple(literals.split()), re.compile(pattern)) for literals, pattern in _rules())


def _rules() -> Iterator[tuple[str, str]]:
    # What is a place may hold what is a shape.
    for literal, keep, gone in _PLACES:
        yield literal, f"(?P<keep>{keep}){gone}"
    for follows, prefixes in _TOKENS.items():
        for prefix in prefixes.split():
            # Begun with the literal, because that is what Python's re searches for fast.
            begun = re.escape(prefix)
            yield prefix, rf"{begun}{_begins(begun)}{follows}[\w-]*+{_REST}(?P<keep>)"
    for literals, shape in (*_SHAPES, *_detectors()):
        yield literals, rf"{_begins('')}(?:{shape})[\w-]*+{_REST}(?P<keep>)"


def _begins(prefix: str) -> str:
    return f"(?:{'|'.join(begin.format(prefix) for begin in _BEGIN)})"


def _detectors() -> Iterator[tuple[str, str]]:
    # It takes a third of a second to import, and who only asks for the status has no record to write.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    detectors: list[Any] = [*get_mapping_from_secret_type_to_class().values()]
    for detector in sorted(detectors, key=lambda detector: detector.__name__):
        literals = _DETECTORS.get(detector.__name__, "")
        for shape in detector().denylist if literals else ():
            yield literals, f"(?i:{shape.pattern})" if shape.flags & re.IGNORECASE else shape.pattern
