"""Checks that wallets made here open in the Python package bittensor-wallet, and the other way round.

    python3 -m venv VENV && VENV/bin/pip install bittensor-wallet==4.1.1
    VENV/bin/python tests/peers/wallets.py target/debug/grail

Works in a temporary folder, needs no network, and ends with a non-zero exit code if anything differs.
"""

import json
import os
import subprocess
import sys
import tempfile

from bittensor_wallet import Keypair, Wallet
from bittensor_wallet.keyfile import Keyfile

GRAIL = os.path.abspath(sys.argv[1])
PASSWORD = "Correct-Horse 9!"
MESSAGES = [b"", b"message", bytes(range(256)), b"<Bytes>wrapped</Bytes>"]

done = 0


def grail(*args, **variables):
    environment = {**os.environ, **variables}
    run = subprocess.run([GRAIL, "wallet", *args], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return run.returncode, run.stdout.strip(), run.stderr.strip()


def check(what, holds, detail=""):
    global done
    if not holds:
        sys.exit(f"FAILED: {what}: {detail}")
    done += 1
    print(f"ok: {what}")


def shown(folder, name):
    code, out, err = grail("show", name, "--json", "--path", folder)
    check(f"grail shows {name}", code == 0, err)
    return json.loads(out)["wallets"][0]


def signatures_agree(folder, name, hotkey, pair):
    """Each side verifies what the other signed."""
    for message in MESSAGES:
        digits = "0x" + message.hex()
        code, signature, err = grail("sign", f"{name}/{hotkey}", "--hex", digits, "--path", folder)
        check(f"grail signs {len(message)} bytes", code == 0, err)
        check("Python verifies it", pair.verify(message, bytes.fromhex(signature[2:])))
        theirs = pair.sign(message).hex()
        code, out, _ = grail("verify", pair.ss58_address, theirs, "--hex", digits)
        check("grail verifies Python's", code == 0, out)


def ours_open_in_python(folder):
    code, _, err = grail("new", "ours/hk", "--path", folder, "--words", "24", "--no-encrypt")
    check("grail makes a wallet", code == 0, err)
    told = shown(folder, "ours")
    wallet = Wallet(name="ours", hotkey="hk", path=folder)
    check("Python reads the hotkey", wallet.hotkey.ss58_address == told["hotkeys"][0]["address"])
    check("Python reads the coldkey", wallet.coldkey.ss58_address == told["coldkey"]["address"])
    check("Python reads coldkeypub", wallet.coldkeypub.ss58_address == told["coldkey"]["address"])
    signatures_agree(folder, "ours", "hk", wallet.hotkey)
    code, _, err = grail("new", "locked/hk", "--path", folder, "--encrypt", "--password-env", "PW", PW=PASSWORD)
    check("grail makes an encrypted coldkey", code == 0, err)
    keyfile = Keyfile(os.path.join(folder, "locked", "coldkey"), name="coldkey")
    check("Python sees that it is encrypted", keyfile.is_encrypted())
    pair = keyfile.get_keypair(PASSWORD)
    check("Python opens it", pair.ss58_address == shown(folder, "locked")["coldkey"]["address"])


def theirs_open_here(folder):
    wallet = Wallet(name="theirs", hotkey="hk", path=folder)
    wallet.create_new_coldkey(n_words=12, use_password=False, overwrite=True, suppress=True)
    wallet.create_new_hotkey(n_words=12, use_password=False, overwrite=True, suppress=True)
    told = shown(folder, "theirs")
    check("grail reads Python's hotkey", told["hotkeys"][0]["address"] == wallet.hotkey.ss58_address)
    check("grail reads Python's coldkey", told["coldkey"]["address"] == wallet.coldkeypub.ss58_address)
    signatures_agree(folder, "theirs", "hk", wallet.hotkey)
    keyfile = Keyfile(os.path.join(folder, "theirs", "coldkey"), name="coldkey")
    keyfile.encrypt(PASSWORD)
    args = ["sign", "theirs", "--coldkey", "--hex", "0x00", "--path", folder, "--password-env", "PW"]
    code, signature, err = grail(*args, PW=PASSWORD)
    check("grail opens what Python encrypted", code == 0, err)
    check("and signs with it", wallet.coldkeypub.verify(b"\x00", bytes.fromhex(signature[2:])))
    code, _, err = grail(*args, PW="wrong")
    check("a wrong password is refused", code == 1 and "does not open" in err, err)


def phrases_and_uris_agree(folder):
    for n_words in (12, 15, 18, 21, 24):
        phrase = Keypair.generate_mnemonic(n_words)
        code, out, err = grail("import", f"p{n_words}", "--path", folder, "--secret-env", "SECRET", SECRET=phrase)
        address = Keypair.create_from_mnemonic(phrase).ss58_address
        check(f"a phrase of {n_words} words", code == 0 and address in out, err)
    for index, uri in enumerate(["//Alice", "//grail//7", "//hard/soft", "//a/b///password"]):
        code, out, err = grail("import", f"u{index}", "--path", folder, "--secret-env", "SECRET", SECRET=uri)
        address = Keypair.create_from_uri(uri).ss58_address
        check(f"the secret URI {uri}", code == 0 and address in out, err)


with tempfile.TemporaryDirectory() as folder:
    ours_open_in_python(folder)
    theirs_open_here(folder)
    phrases_and_uris_agree(folder)
print(f"{done} checks hold")
