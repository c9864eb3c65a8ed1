"""Secrets of many kinds, made when they are needed: none of them is in a file that git has."""

import base64
import json
import random
import string

LETTERS = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


def planted(seed: int) -> dict[str, str]:
    """One secret of each kind that has a shape of its own."""
    chance = random.Random(seed)

    def some(length: int, of: str = LETTERS) -> str:
        return "".join(chance.choice(of) for _ in range(length))

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    key = "\n".join(some(64) for _ in range(3))
    return {
        "GitHub": "gh" + "p_" + some(36),
        "GitHub, fine-grained": "github" + "_pat_" + some(22) + "_" + some(59),
        "GitLab": "glp" + "at-" + some(20),
        "Hugging Face": "h" + "f_" + some(34),
        "W&B": "wandb" + "_v1_" + some(40),
        "Anthropic": "sk-" + "ant-api03-" + some(80),
        "OpenAI": "sk-" + "proj-" + some(60),
        "AWS": "AK" + "IA" + some(16, string.ascii_uppercase + string.digits),
        "Google": "AI" + "za" + some(35),
        "Google, OAuth": "ya" + "29." + some(60),
        "Slack": "xo" + "xb-123456789012-1234567890123-" + some(24),
        "Slack, hook": "https://hooks.slack" + ".com/services/T" + some(8) + "/B" + some(8) + "/" + some(24),
        "JWT": f"{part({'alg': 'HS256'})}.{part({'sub': some(8)})}.{some(43)}",
        "Stripe": "sk" + "_live_" + some(24),
        "SendGrid": "SG" + "." + some(22) + "." + some(43),
        "npm": "np" + "m_" + some(36),
        "PyPI": "py" + "pi-AgEIcHlwaS5vcmc" + some(80),
        "Twilio": "S" + "K" + some(32, HEX),
        "Telegram": some(9, "123456789") + ":AA" + some(33),
        "Mailchimp": some(32, HEX) + "-us12",
        "Square": "sq0" + "csp-" + some(43),
        "Discord": "MTIzNDU2Nzg5MDEyMzQ1Njc4" + "." + some(6) + "." + some(27),
        "Groq": "gs" + "k_" + some(52),
        "NVIDIA": "nv" + "api-" + some(64),
        "OpenRouter": "sk-" + "or-v1-" + some(64, HEX),
        "DeepSeek": "sk-" + "7" + some(31, HEX),
        "Replicate": "r" + "8_" + some(37),
        "Databricks": "da" + "pi" + some(32, HEX),
        "DigitalOcean": "do" + "p_v1_" + some(64, HEX),
        "Vault": "hv" + "s." + some(90),
        "Docker": "dc" + "kr_pat_" + some(27),
        "Stripe, test": "sk" + "_test_" + some(24),
        "Slack, app": "xa" + "pp-1-A012345-" + some(11, "0123456789") + "-" + some(64, HEX),
        "GitLab, routable": "glp" + "at-" + some(27) + ".01." + some(9, HEX),
        "Google, refresh": "1/" + "/0" + some(60),
        "Neptune": "eyJhcGlf" + some(60),
        "age": "AGE-" + "SECRET-KEY-1" + some(58, string.ascii_uppercase + "0123456789"),
        "Azure": "Account" + "Key=" + some(86) + "==",
        "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{key}\n-----END RSA PRIVATE KEY-----",
    }


def named(seed: int) -> dict[str, tuple[str, str]]:
    """Texts that hold a secret of any look by what stands around it, and that secret."""
    chance = random.Random(seed)
    values = ["".join(chance.choice(LETTERS) for _ in range(22)) + "1a" for _ in range(14)]
    return {
        text.replace("{}", value): (value, kind)
        for value, (kind, text) in zip(
            values,
            {
                "variable": "HF_TOKEN={}",
                "dotenv": 'export MY_API_KEY="{}"',
                "JSON": '{"api_key": "{}"}',
                "escaped JSON": r"{\"api_key\": \"{}\"}",
                "YAML": "password: {}",
                "header": "Authorization: Bearer {}",
                "query": "GET https://x.example/y?access_token={}&z=1",
                "option": "run --token {} --steps 10",
                "option with =": "run --hub.token={} --steps 10",
                "URL": "postgres://ada:{}@db:5432/x",
                "Python": "client(secret_key='{}')",
                "AWS": "aws_secret_access_key = {}",
                "assignment": "os.environ['HF_TOKEN'] = '{}'",
                "signed": "https://b.s3.x.org/k?X-Amz-Expires=1&X-Amz-Signature={}",
            }.items(),
            strict=True,
        )
    }
