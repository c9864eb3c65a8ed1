"""Forms that secrets have where researchers work, and forms that only look like them.

A secret is made when it is needed, of '<kind length>' in a text: `an` letters and digits, `hex`, `num` digits, `up`
capitals and digits, `b64`, `pw` with signs, `word` letters alone. So no file that git has holds one.
"""

import random
import re
import string

_OF = {
    "an": string.ascii_letters + string.digits,
    "hex": "0123456789abcdef",
    "num": "123456789",
    "up": string.ascii_uppercase + string.digits,
    "low": string.ascii_lowercase + string.digits,
    "b64": string.ascii_letters + string.digits + "+/",
    "pw": string.ascii_letters + string.digits + "!@#%^*?+",
    "word": string.ascii_lowercase,
}
_SLOT = re.compile(r"<(\w+) (\d+)>")


def secrets(texts: list[str], seed: int) -> dict[str, list[str]]:
    """Each text with secrets in it, and these."""
    chance, made = random.Random(seed), dict[str, list[str]]()
    for text in texts:
        parts: list[str] = []

        def some(slot: re.Match[str], parts: list[str] = parts) -> str:
            kind, length = slot[1], int(slot[2])
            body = "".join(chance.choice(_OF[kind]) for _ in range(length - 3))
            # Each kind that has both holds a digit and letters.
            ends = {"num": "427", "word": "xqz"}.get(kind, "A7K" if kind == "up" else "a7f")
            parts.append(body[: length // 2] + ends + body[length // 2 :])
            return parts[-1]

        made[_SLOT.sub(some, text)] = parts
    return made


MUST_GO = r"""
curl -u ada:<pw 14> https://api.example.com/v1/runs
curl -sSLu ada:<an 12> https://api.example.com
curl --user ada:<word 10> https://x.example
curl --proxy-user ada:<an 10> -x proxy:3128 https://x.example
curl -X POST -H "Content-Type: application/json" -u "ada:<an 16>" -d '{}' https://x.example
curl -H "Authorization: Bearer <an 30>" https://api.example.com
curl -H 'Authorization: token <hex 40>' https://api.github.com/user
curl -H "Authorization: Basic <b64 20>==" https://x.example
curl -H "PRIVATE-TOKEN: <an 20>" https://gitlab.example/api/v4
curl -H "X-Api-Key: <an 32>" https://x.example
wget --http-password=<an 12> https://x.example/data.tar
Authorization: token <hex 40>
Authorization: Bearer <an 24>
authorization: bearer <hex 32>
Proxy-Authorization: Basic <b64 24>
{'Authorization': 'Bearer <an 40>'}
{"Authorization": "token <an 36>", "Accept": "application/json"}
headers={"authorization": "Basic <b64 28>"}
> Authorization: Bearer <an 60>
https://<an 40>@github.com/org/repo.git
https://x-access-token:<an 36>@github.com/org/repo
https://oauth2:<an 26>@gitlab.example/org/repo.git
https://<hex 32>@o12345.ingest.sentry.io/67890
https://ada:<pw 12>@pypi.example/simple
http://ada:<word 9>@localhost:8888/
git clone https://<an 36>@github.com/org/private.git
fatal: unable to access 'https://ada:<an 20>@host/x.git/': The requested URL returned error: 403
postgres://ada:<an 12>@db:5432/runs
postgresql+psycopg2://ada:<pw 16>@db/runs
mysql://root:<word 8>@127.0.0.1:3306/mlflow
redis://:<an 16>@cache:6379/0
mongodb+srv://ada:<an 16>@cluster0.ab1cd.mongodb.net/?retryWrites=true
amqp://guest:<an 10>@rabbit:5672/vhost
DATABASE_URL=postgres://ada:<an 12>@db/x
SQLALCHEMY_DATABASE_URI='mysql+pymysql://ada:<an 12>@db/x'
OPENAI_KEY=<an 32>
OPENAI_API_KEY=sk-<an 48>
export OPENAI_API_KEY="sk-proj-<an 60>"
ANTHROPIC_API_KEY=sk-ant-api03-<an 80>
AZURE_OPENAI_KEY=<hex 32>
AZURE_OPENAI_API_KEY: <hex 32>
WANDB_API_KEY=<hex 40>
wandb login <hex 40>
wandb login --relogin <hex 40>
wandb login --relogin --host=https://wandb.example <hex 40>
wandb login --host https://wandb.example --relogin <hex 40>
wandb.login(key="<hex 40>")
wandb.login(relogin=True, key='<hex 40>')
HF_TOKEN=hf_<an 34>
huggingface-cli login --token hf_<an 34> --add-to-git-credential
login(token="hf_<an 34>")
{"hf_token": "hf_<an 34>"}
using token hf_<an 34> for user ada
XAI_API_KEY=xai-<an 80>
client = Grok("xai-<an 80>")
pplx-<an 48>
RUNPOD: rpa_<an 42>
tskey-auth-<an 17>-<an 32>
tailscale up --authkey tskey-auth-<an 17>-<an 32>
lin_api_<an 40>
gsk_<an 52>
r8_<an 37>
nvapi-<an 64>
jina_<an 60>
tvly-<an 32>
lsv2_pt_<hex 32>_<hex 10>
pcsk_<an 20>_<an 48>
fw_<an 24>
csk-<low 48>
sk-or-v1-<hex 64>
tgp_v1_<an 43>
esecret_<an 30>
modal token set --token-id ak-<an 22> --token-secret as-<an 22>
TOGETHER_API_KEY=<hex 64>
MISTRAL_API_KEY=<an 32>
COHERE_API_KEY=<an 40>
REPLICATE_API_TOKEN=r8_<an 37>
KAGGLE_KEY=<hex 32>
{"username":"ada","key":"<hex 32>"}
NEPTUNE_API_TOKEN="eyJhcGlf<an 100>=="
COMET_API_KEY=<an 25>
CLEARML_API_SECRET_KEY=<an 50>
MLFLOW_TRACKING_PASSWORD=<an 12>
NGC_API_KEY=<an 84>
https://discord.com/api/webhooks/123456789012345678/<an 68>
https://discordapp.com/api/v10/webhooks/1234567890123456789/<an 68>
https://hooks.slack.com/services/T0<up 9>/B0<up 9>/<an 24>
https://api.telegram.org/bot<num 9>:AA<an 33>/sendMessage
TELEGRAM=<num 9>:AA<an 33>
https://acme.webhook.office.com/webhookb2/<hex 32>@<hex 32>/IncomingWebhook/<hex 32>
xoxb-123456789012-1234567890123-<an 24>
https://acc.blob.core.windows.net/c/f?sv=2022-11-02&ss=b&srt=sco&sig=<an 43>%3D
SharedAccessSignature=sv=2021-06-08&ss=b&sig=<an 43>%3D
DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=<b64 86>==;EndpointSuffix=core.windows.net
Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=root;SharedAccessKey=<b64 43>=
Server=tcp:db,1433;Database=runs;Uid=ada;Pwd=<word 10>;Encrypt=yes
Server=db;User Id=ada;Password=<pw 12>;
Driver={ODBC};UID=ada;PWD=<an 10>
https://b.s3.amazonaws.com/k?X-Amz-Expires=300&X-Amz-Signature=<hex 64>
https://storage.googleapis.com/b/k?X-Goog-Date=20260101T000000Z&X-Goog-Signature=<hex 128>
https://b.s3.amazonaws.com/k?AWSAccessKeyId=x&Expires=1&Signature=<an 27>%3D
aws_secret_access_key = <b64 40>
AWS_SECRET_ACCESS_KEY=<b64 40>
AWS_SESSION_TOKEN=<b64 200>
AKIA<up 16>
"private_key": "-----BEGIN PRIVATE KEY-----\n<b64 64>\n<b64 64>\n-----END PRIVATE KEY-----\n"
AIza<an 35>
ya29.<an 120>
GOCSPX-<an 28>
machine api.wandb.ai login user password <hex 40>
machine github.com login ada password <an 30>
default login ada password <word 10>
Cookie: session=<an 32>; csrftoken=<an 32>
Set-Cookie: sessionid=<an 32>; Path=/; HttpOnly
{'Cookie': 'sid=<an 26>; theme=dark'}
JSESSIONID=<up 32>
csrftoken=<an 32>
password=b'<an 16>'
token=b'<an 32>'
{'password': b'<an 14>', 'user': 'ada'}
{'api_key': '<an 24>', 'n': 3}
DB_PASSWORD=<an 6>&<an 6>
DB_PASSWORD=<an 6>)<an 6>
DB_PASSWORD=<an 6>,<an 6>
DB_PASSWORD=<an 6>;<an 6>
password: "<an 6>& <an 6>"
'password': '<an 5>),;<an 6>'
--config {"api_key":"<an 24>","steps":10}
python train.py '{"wandb": {"api_key": "<hex 40>"}, "lr": 0.1}'
{\"password\": \"<an 14>\"}
"password": <num 10>
'password': <num 8>,
password=<num 8>
"api_keys": ["<an 24>", "<an 24>"]
passwords = ['<an 12>', '<an 12>']
password: str = "<an 14>"
os.environ["SOME_TOKEN"] = "<an 30>"
os.environ.setdefault("SOME_API_KEY", "<an 30>")
("authorization", "Bearer <an 30>")
- name: DB_PASSWORD\n  value: "<an 16>"
{"name": "API_KEY", "value": "<an 24>"}
<password><an 12></password>
kubectl create secret generic s --from-literal=password=<an 12>
docker login -u ada -p <an 20> registry.example
docker login --username ada --password <an 20> registry.example
sshpass -p <an 12> ssh ada@host
sshpass -p'<an 12>' rsync -a x host:
mysql -u root -p<an 12> runs
redis-cli -h cache -a <an 16> ping
PGPASSWORD=<an 12> psql -h db
db.example:5432:runs:ada:<an 12>
ssh_pass: <an 12>
DB_PASS=<an 12>
MYSQL_PWD=<an 12>
GITHUB_PAT=<an 40>
ghp_<an 36>
github_pat_<an 22>_<an 59>
glpat-<an 20>
glptt-<hex 40>
//registry.npmjs.org/:_authToken=<hex 36>
_authToken=npm_<an 36>
"auths": {"ghcr.io": {"auth": "<b64 40>="}}
password = pypi-AgEIcHlwaS5vcmc<an 80>
dckr_pat_<an 27>
eyJhbGciOiJIUzI1NiJ9.eyJzdWIi<an 20>.<an 43>
hvs.<an 90>
dp.pt.<an 43>
dapi<hex 32>
ATATT3<an 180>
figd_<an 40>
ntn_<an 46>
glsa_<an 32>_<hex 8>
sntrys_<an 80>
NRAK-<up 27>
pat<an 14>.<hex 64>
pul-<hex 40>
SG.<an 22>.<an 43>
sk_live_<an 24>
shpat_<hex 32>
otpauth://totp/x:ada?secret=<up 16>7AB&issuer=x
client_secret=Abc8Q~<an 34>
?access_token=<an 30>&page=2
&refresh_token=<an 40>
"refresh_token": "<an 60>"
run --hub.token=<an 24> --steps 10
run --api-key <an 20>
run --db-password <an 10>
[default]\naws_access_key_id = AKIA<up 16>\naws_secret_access_key = <b64 40>
AGE-SECRET-KEY-1<up 58>
"identitytoken": "<an 40>"
requests.get(url, auth=("ada", "<an 16>"))
RuntimeError: 401 Client Error: Unauthorized for url: https://api.example/v1?api_key=<an 32>
ValueError: bad key sk-<an 48>
""".strip().splitlines()

MUST_STAY = r"""
eos_token=<|im_end|>
think_token: "<think>"
{"think_token": "<think>", "end_think_token": "</think>"}
"token": "<s>"
"token": "the"
{"token": "Ġhello", "id": 31373}
{'token': '▁world', 'logprob': -1.25}
stablehlo.token
%0 = stablehlo.create_token : !stablehlo.token
"stablehlo.after_all"(%arg0) : (!stablehlo.token) -> !stablehlo.token
%1 = stablehlo.custom_call @xla_python_gpu_callback(%0) {api_version = 2 : i32} : (tensor<4xf32>) -> tensor<4xf32>
token.1 = token[] after-all()
%after-all.2 = token[] after-all(), metadata={op_name="jit(step)/jit(main)/after_all"}
outfeed.3 = token[] outfeed(f32[8]{0} %p.1, token[] %token.2), outfeed_config="x1"
HloModule jit_step, entry_computation_layout={(bf16[4096,8192]{1,0})->bf16[4096,8192]{1,0}}
fusion.12 = bf16[4096,14336]{1,0:T(8,128)(2,1)} fusion(%p0, %p1), kind=kOutput, calls=%fused_computation.12
token_id=128009
"token_ids": [128000, 9906, 1917]
pad_token_id: 151643
num_tokens=4096
max_tokens: 16777216
tokens_per_second=18234.5
"tokens": 1048576, "token_count": 16777216
max_key_len=128
key_len: 2048
--tokenizer gpt2
--tokenizer meta-llama/Llama-3.1-8B
--token-budget 4096
--max-token-length 8192
--num-key-value-heads 8
num_key_value_heads: 8
key=Array([0, 42], dtype=uint32)
key = jax.random.PRNGKey(0)
key=jax.random.key(1234567890)
key, subkey = jax.random.split(key)
PRNG key [ 928981903 3453687069]
rng_key=[0 1797259609]
dropout_key = Array((), dtype=key<fry>) overlaying: [2465931498 3679230171]
prng_key: 0x9e3779b97f4a7c15
cache_key=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
compile_cache_key: jit_train_step-3f7c9a1b2d4e5f60718293a4b5c6d7e8
primary_key: experiment_id_2
sort_key=created_at_2026
foreign_key='runs_v2_trial_id'
partition_key = "date_2026_01_01"
attention_key_projection: layers.12.self_attn.k_proj.weight
query_key_norm=True
qk_norm: rmsnorm_1e-5
KeyError: 'layers_12_attention_key'
KeyError: "model.layers.31.self_attn.q_proj.weight"
missing key model.embed_tokens.weight_2 in checkpoint
unexpected keys: ['lm_head.weight', 'rotary_emb.inv_freq2']
9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
da39a3ee5e6b4b0d3255bfef95601890afd80709
commit da39a3ee5e6b4b0d3255bfef95601890afd80709 (HEAD -> main)
index 3f7c9a1b2d..4e5f607182 100644
sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
image: ghcr.io/org/train@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
docker://ubuntu:22.04@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
us-docker.pkg.dev/proj/repo/image:v1.2.3-3f7c9a1
md5=d41d8cd98f00b204e9800998ecf8427e
etag: "d41d8cd98f00b204e9800998ecf8427e-12"
crc32c=AAAAAA==
digest: blake2b-4a7d1ed414474e4033ac29ccb8653d9b
uuid 123e4567-e89b-12d3-a456-426614174000
run id 2q8xk3vz, group sweep-7
https://wandb.ai/ada/moe-hc/runs/2q8xk3vz
https://wandb.ai/ada/moe-hc/runs/2q8xk3vz/overview?nw=nwuserada
wandb: Syncing run balmy-sweep-12
https://github.com/marin-community/marin/commit/da39a3ee5e6b4b0d3255bfef95601890afd80709
https://github.com/marin-community/marin/pull/1234#issuecomment-1234567890
git@github.com:marin-community/marin.git
ssh://git@github.com/marin-community/marin.git
git+https://github.com/marin-community/levanter@3f7c9a1b2d4e5f60718293a4b5c6d7e8f9012345
https://huggingface.co/meta-llama/Llama-3.1-8B/resolve/main/tokenizer.json
hf_checkpoint_converter_for_llama_3_models_v2
hf://datasets/allenai/c4@3f7c9a1/en
gs://marin-us-central2/checkpoints/llama-8b-3f7c9a/step-100000
gs://bucket/path:with/colon@2
s3://bucket/checkpoints/step-1000/params.msgpack
abfss://container2024dataset01@account.dfs.core.windows.net/data
arn:aws:iam::123456789012:role/train-role-2
arn:aws:secretsmanager:us-east-1:123456789012:secret:name-1a2b3c4d
projects/my-proj/secrets/wandb/versions/3
/home/ada/.config/wandb/settings
/run/secrets/wandb_api_key
api_key_file: /run/secrets/key1
token_path=/home/ada/.cache/huggingface/token
WANDB_API_KEY_FILE=/run/secrets/wandb1
GOOGLE_APPLICATION_CREDENTIALS=/home/ada/key-1.json
PWD=/home/ada/marin2
OLDPWD=/tmp/research-patch-1a2b3c
Traceback (most recent call last):
File "/home/ada/marin/experiments/moe_hc/kernels.py", line 123, in measure
  File "<frozen importlib._bootstrap>", line 241, in _call_with_frames_removed
RuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.
jaxlib.xla_extension.XlaRuntimeError: INTERNAL: CustomCall failed: 0x7f3a2c001b40
I0000 00:00:1718000000.123456  12345 service.cc:145] XLA service 0x55d0c8a3f2b0 initialized
2026-01-02 03:04:05.678901: W external/xla/xla/service/gpu/nvptx_compiler.cc:763
E0102 03:04:05.678901 12345 main.cc:5432:runs:failed
XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true --xla_dump_to=/tmp/x1
LIBTPU_INIT_ARGS=--xla_tpu_scoped_vmem_limit_kib=98304
JAX_PLATFORMS=tpu,cpu
TPU_ACCELERATOR_TYPE=v5p-128
NVIDIA H100 80GB HBM3, driver 550.54.15
GPU-3f7c9a1b-2d4e-5f60-7182-93a4b5c6d7e8
seed=1234567890123456789
seed: 0x9e3779b97f4a7c15f39cc0605cedc834
data_seed=42, init_seed=43
lr=3e-4, weight_decay=0.1, warmup_steps=2000
config: llama_1b_ctx4096_bs512_lr3e-4_wd0.1_seed0
run_name=moe-hc-d2048-e64-k8-cap1.25-bf16
MOE-HC-002.01
moe_hc/MOE-HC-009
experiments.moe_hc.measure:time_forward
task-level_Mixture-of-experts-v2-baseline
mask-attention-with-blocked-rows-and-Columns-2
disk-backed-token-cache-for-long-sequences-2048
bass-drum-detector-with-2-heads-and-3-layers
password must not be empty
password: required for user ada
the token is read from HF_TOKEN
set WANDB_API_KEY or run wandb login
wandb login
wandb login --relogin
wandb login --host=https://wandb.example.com
no secret was found in 12345678 bytes
token = load_token_v2(path)
token=self.settings.hf_token2
api_key=os.environ["WANDB_API_KEY"]
password = getpass.getpass()
password=password
password: ${DB_PASSWORD_1}
password: {{ .Values.db.password1 }}
token: ${{ secrets.GITHUB_TOKEN }}
f"https://{user}:{password}@{host}"
https://$USER:$PASSWORD@host/x
HF_TOKEN=<your token 1234>
--token TOKEN
--api-key API_KEY
OPENAI_API_KEY=...
password=********
api_key: null
"api_key": ""
"use_auth_token": false
def forward(self, key: Array, value: Array, query: Array) -> Array:
dict(key=lambda x: x[1], reverse=True)
sorted(rows, key=itemgetter(2))
keyboard_interrupt=1
basic block bb.12345678
docker run --user 1000:1000 image
docker run -u 1000:1000 image
python -u experiments/moe_hc/run.py:main
mkdir -p experiments/moe_hc_2
ssh -p 2222 ada@host
-----BEGIN CERTIFICATE-----
a file that begins with -----BEGIN PRIVATE KEY----- is a key, and the rest of this stays
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHx3 ada@host
c2VlZDogMTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1ub3A=
data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk
integrity sha512-3f7c9a1b2d4e5f60718293a4b5c6d7e8f9012345Abcdefghijklmnopqrstu==
numpy==1.26.4 --hash=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
jax[tpu]==0.8.0, jaxlib==0.8.0, libtpu==0.0.21
detect-secrets==1.5.0
{"detect-secrets": "1.5.0", "keyring": "25.6.0"}
forward_pass: 12.5 ms, backward_pass: 25.1 ms
first_pass=route_tokens_v2
session: tmux-3 (attached)
signature: (x: f32[4096,8192], w: f32[8192,1024]) -> f32[4096,1024]
sig=0.05
author: ada-lovelace-1815@example.com
ada@example.com pushed 3 commits
p50=1.234 p95=2.345 p99=3.456
pass_mode=forward_and_backward_2
skip_special_tokens=True
bos_token_id=1, eos_token_id=2, unk_token_id=0
special_tokens_map: {"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]}
cookie_cutter_template=v2
state_key_value_cache[layer_12]: bf16[8,4096,128]
""".strip().splitlines()

# Written after the rules were, to find what they miss. At first sight 75 of these 87 went, and 88 of those 89 stayed.
FRESH_GO = r"""
http -a ada:<an 14> POST https://x.example/runs
gcloud auth activate-refresh-token ada 1//0<an 60>
export AWS_BEARER_TOKEN_BEDROCK=ABSK<b64 80>
rclone config create s3 s3 secret_access_key=<b64 40>
mc alias set minio http://minio:9000 admin <an 20>
s3cmd --secret_key=<b64 40> ls
helm upgrade x --set auth.password=<an 12>
docker run -e HF_TOKEN=hf_<an 34> image
docker run -e POSTGRES_PASSWORD=<an 10> postgres
git config --global url."https://ada:<an 36>@github.com/".insteadOf "https://github.com/"
pip install --index-url https://__token__:<an 40>@pypi.example/simple x
uv pip install --extra-index-url https://ada:<an 20>@nexus.example/simple
conda config --add channels https://conda.example/t/<an 30>/channel
jupyter notebook list: http://localhost:8888/?token=<hex 48>
[I 2026-01-02 ServerApp] http://127.0.0.1:8888/lab?token=<hex 48>
ngrok config add-authtoken <an 49>
aim up --token <an 24>
requests.post(url, headers={"X-Auth-Token": "<an 32>"})
requests.exceptions.HTTPError: 403 for https://api.example/v1/models?key=AIza<an 35>
grpc metadata: [('authorization', 'Bearer <an 40>')]
openai.OpenAI(api_key='<an 40>')
anthropic.AuthenticationError: invalid x-api-key: sk-ant-api03-<an 90>
os.environ["WANDB_API_KEY"]="<hex 40>"
wandb: ERROR API key <hex 40> is invalid
"client_secret": "<an 32>",
{"type":"service_account","private_key":"-----BEGIN PRIVATE KEY-----\n<b64 64>\n-----END PRIVATE KEY-----\n"}
MINIO_ROOT_PASSWORD: <an 12>
ray start --redis-password=<an 16>
dvc remote modify --local s3 secret_access_key <b64 40>
mlflow.set_tracking_uri("https://ada:<an 16>@mlflow.example")
ftp://ada:<an 10>@files.example/x
smb://ada:<an 10>@nas/share
jdbc:postgresql://db/x?user=ada&password=<an 12>
spark.hadoop.fs.s3a.secret.key=<b64 40>
fs.azure.account.key.acc.blob.core.windows.net=<b64 86>==
hub:\n  token: <an 32>\n  user: ada
SLACK_WEBHOOK_URL=https://hooks.slack.com/services/T0<up 9>/B0<up 9>/<an 24>
NTFY_TOKEN=tk_<low 29>
kubeconfig token: eyJhbGciOiJSUzI1NiJ9.<an 200>.<an 80>
BUILDKITE_AGENT_TOKEN="<an 40>"
password_hash = $2b$12$<an 53>
encryption_key = "<b64 43>="
COMET_API_KEY <an 25>
ssh-add: passphrase=<pw 18>
skypilot: env HF_TOKEN: hf_<an 34>
envs:\n  WANDB_API_KEY: <hex 40>
kubectl set env deploy/x OPENAI_API_KEY=<an 51>
gh auth login --with-token <<< ghp_<an 36>
echo "ghp_<an 36>" | gh auth login --with-token
machine huggingface.co\nlogin ada\npassword hf_<an 34>
git remote add origin https://ada:ghp_<an 36>@github.com/ada/x.git
remote: Invalid username or token for https://oauth2:glpat-<an 20>@gitlab.com/x
hub_token='hf_<an 34>', push_to_hub=True
TrainingArguments(output_dir='x', hub_token='<an 37>', seed=42)
vllm serve model --api-key <an 32>
text-generation-launcher --hf-api-token hf_<an 34>
aws configure set aws_secret_access_key <b64 40>
AWS_ACCESS_KEY_ID=AKIA<up 16> AWS_SECRET_ACCESS_KEY=<b64 40> python x.py
s3://AKIA<up 16>:<b64 39>@bucket/key
storage_options={'key': 'x', 'secret': '<b64 40>'}
az storage blob upload --account-key <b64 86>==
azcopy copy x "https://acc.blob.core.windows.net/c?se=2026-01-01&sp=rw&sv=2022-11-02&sr=c&sig=<an 43>%3D"
AZURE_CLIENT_SECRET=abc8Q~<an 34>
elastic: http://elastic:<an 20>@es:9200
influx --token <an 84>==
GRAFANA_TOKEN=glsa_<an 32>_<hex 8>
neptune.init_run(project="x", api_token="<an 120>")
comet_ml.Experiment(api_key="<an 25>")
clearml: access_key: "<up 20>" secret_key: "<an 50>"
labelstudio --token <hex 40>
{'hub_token': 'hf_<an 34>', 'lr': 0.1}
Namespace(api_key='<an 32>', lr=0.1)
Config(lr=0.1, wandb_api_key='<hex 40>', steps=10)
export SLACK_BOT_TOKEN=xoxb-<num 12>-<num 13>-<an 24>
ssh://ada:<an 10>@host:22/x
X-Vault-Token: hvs.<an 90>
Cookie: _xsrf=2|<hex 8>|<hex 32>|1700000000
psql "host=db user=ada password=<an 12> dbname=x"
sqlcmd -S db -U ada -P <an 12>
ldapsearch -w <an 12> -D cn=x
zip -P <an 12> out.zip x
openssl enc -aes-256-cbc -pass pass:<an 12>
ANTHROPIC_AUTH_TOKEN=<an 40>
LANGFUSE_SECRET_KEY=sk-lf-<hex 36>
{"Authorization":"Bearer sk-or-v1-<hex 64>"}
curl "https://generativelanguage.googleapis.com/v1?key=AIza<an 35>"
CLOUDFLARE_API_TOKEN=<an 40>
""".strip().splitlines()

FRESH_STAY = r"""
jax.random.fold_in(key, 12345) -> Array([2718843009, 1272950319], dtype=uint32)
{"decoder_start_token_id": 0, "forced_bos_token_id": null}
"added_tokens": [{"id": 128256, "content": "<|reserved_special_token_0|>", "special": true}]
special token <|fim_prefix|> has id 151659
tokenizer.sep_token = "[SEP]"
cls_token="[CLS]" mask_token="[MASK]"
prefix_token: "▁<PRE>"
tok/s: 18234.5, token acc: 0.6123
tokens: 1.05e+09 of 2.00e+10
next_token_loss=2.3456
token_type_ids shape (8, 4096)
MultiHeadAttention(num_heads=32, key_dim=128, value_dim=128)
query_states, key_states, value_states = qkv.split(128, dim=-1)
k_cache[layer=3] key=bf16[8,4096,8,128]
missing_keys=['encoder.block.0.attn.key.weight'] unexpected_keys=[]
KeyError: 'gpt_neox.layers.10.attention.query_key_value.weight'
safetensors metadata key "format" = "pt"
orbax: restoring key params/decoder/layers_12/mlp/wi_0/kernel
jit_train_step(12345678901234567890) cache miss, key hash 3f7c9a1b2d4e5f60
XLA compilation cache key: jit_step-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
fingerprint: 3f7c9a1b2d4e5f60718293a4b5c6d7e8
%param.3 = f32[256]{0} parameter(3), sharding={devices=[8]<=[8]}, metadata={op_name="opt_state.mu['key']"}
sharding={devices=[2,1,4]0,1,2,3,4,5,6,7 last_tile_dim_replicate}
custom-call.12 = (bf16[8,128]) custom-call(%a), backend_config={"body": "TUzvUgFNTElSMjAuMC4wZ2l0AAE3CQEDBQcJAwsDDQMP"}
#loc12 = loc("/home/ada/marin/lib/levanter/attention.py":123:45)
ptxas info : Used 255 registers, 64 bytes spill stores
sm_90a, cuda 12.8, cudnn 9.10.2.21
ncclUniqueId 0x7f3a2c001b40, commId 0x3f7c9a1b2d4e5f60
ray job raysubmit_Xk3vz2q8LmN4pR7t
ray.exceptions.RayTaskError(ValueError): ray::measure() (pid=12345, ip=10.130.0.7)
iris job marin-moe-hc-1a2b3c4d on v5p-64-us-east5-a
node ray-marin-us-central2-worker-3f7c9a1b-tpu
gs://marin-us-east5/tokenized/dclm_baseline-0206f1/train/shard_00012/input_ids/c/0
experiments/moe_hc/__main__.py::thread
commit 3f7c9a1 Author: Ada <ada@example.com>
Merge pull request #2123 from ada/fix-token-budget-2
branch research/2123-token-dropless-moe-v2
sweep: lr=[1e-4, 3e-4], wd=[0.1], keys=['a1', 'b2']
config hash md5:d41d8cd98f00b204e9800998ecf8427e (16 of 64)
export PATH=/usr/local/cuda-12.8/bin:$PATH
AUTH=none SESSION=warm-2
password prompt timed out after 30 s
session id 42, pass 3 of 10
authors: 12, author_key: lovelace1815
webhook delivered in 12 ms
wandb: Run data is saved locally in /tmp/wandb/run-20260102_030405-2q8xk3vz
wandb: Tracking run with wandb version 0.31.0
token embedding table: 128256 x 4096
the secret is 32 layers of attention
password policy v2: 12 characters
api key rotation takes 30 days
access token expires in 3600 s
auth key exchange uses curve25519-sha256@libssh.org
KV cache: key 8x128, value 8x128
token ids 128000,9906,1917
token count 1.2e9 in shard_00012-of-00128
pass 12 of 64: hlo-pass-pipeline-fusion-2
pass=LayoutAssignment-23
after_all = stablehlo.after_all %0 : !stablehlo.token
tokens/param ratio: 20.0
key_padding_mask[0] = bool[8,4096]
model.layers.0.self_attn.key_norm.weight f32[128]
"key": "train/loss", "value": 2.345
{"key": "val_2", "metric": "acc"}
cache key ('jit_step', 'v5p-64', 3f7c9a1b)
lock key /tmp/libtpu_lockfile_1000
session /tmp/ray/session_2026-01-02_03-04-05_123456_789
session_dir=/tmp/ray/session_2026-01-02_03-04-05_123456_789
sig: (i32[8,128], f32[]) -> f32[8,128]
signature = 'bf16[4096,14336]{1,0}'
sid=12, pid=34567
auth: none
cookie = None
Set --token-budget=16384 and --key-block=512
--learning-rate 3e-4 --key-size 128
--seed 12345678901234567890
dedup_key: c4/en/shard-00012
dataset_key = "allenai/c4@3f7c9a1b2d4e5f60718293a4b5c6d7e8f9012345"
row_key=step_00001234
step key: step-1718000000
content-md5: 1B2M2Y8AsgTpgAmY7PhCfg==
ETag: W/"5f607182-93a4b5c6"
x-goog-hash: crc32c=n03x6A==,md5=Ojk9c3dhfxgoKVVHYwFbHQ==
x-request-id: 123e4567-e89b-12d3-a456-426614174000
Bearer authentication is required
basic auth is not supported in version 2.1.0
curl -s https://huggingface.co/gpt2/resolve/main/vocab.json
http://10.130.0.7:8265/#/jobs/raysubmit_Xk3vz2q8LmN4pR7t
git clone https://github.com/marin-community/marin
""".strip().splitlines()
