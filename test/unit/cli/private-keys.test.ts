import { execFileSync } from "node:child_process";
import { createPrivateKey, verify } from "node:crypto";
import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { commandKey, commandWords } from "../../../cli/keys/command-key.ts";
import { encryptPrivateKey, openEncryptedKey } from "../../../cli/keys/encrypted-file.ts";
import { openPrivateKey } from "../../../cli/keys/open-private-key.ts";
import { parsePkcs11Uri, pkcs11Key } from "../../../cli/keys/pkcs11-key.ts";
import { encryptFor, verifies } from "../../../provider/trust/public-key.ts";
import { KeyUnusable } from "../../../provider/trust/signer.ts";
import { testKey } from "../trust/keys.ts";
import { scratchFolder } from "./scratch.ts";
import { softToken } from "./soft-token.ts";

const scratch = scratchFolder();
const pair = testKey();
const message = Buffer.from("a message");

function executable(name: string, text: string): string {
  writeFileSync(scratch(name), text);
  chmodSync(scratch(name), 0o755);
  return scratch(name);
}

describe("an encrypted file", () => {
  const encrypted = (passphrase = "correct horse") =>
    encryptPrivateKey(createPrivateKey(pair.privateKeyPem), passphrase, 4);

  test("opens with its passphrase, and signs and decrypts", async () => {
    const key = await openEncryptedKey("a.key.age", await encrypted(), "correct horse");
    expect(verifies(pair.publicKey, message, await key.sign(message))).toBe(true);
    expect(await key.decrypt(encryptFor(pair.publicKey, message))).toEqual(message);
  });

  test("is an armored age file for a passphrase alone", async () => {
    const text = await encrypted();
    expect(text).toMatch(/^-----BEGIN AGE ENCRYPTED FILE-----\n/);
    const [, body = ""] = /-----\n([\s\S]*)\n-----END/.exec(text) ?? [];
    expect(Buffer.from(body, "base64").toString("latin1")).toMatch(
      /^age-encryption\.org\/v1\n-> scrypt \S{22} 4\n/,
    );
  });

  test("is read as age itself defines it", async () => {
    // From age's own tests: it holds no key, which shows that it was opened.
    const armored = `-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCB4Y2lkcXJQdmwwZzRROEZ5
eXU4dHNnIDgKNnM2Ylp2Vlg2b0NBSVp2QkxCZEhJbEJrYUcreWRIZHVHWVpBaUJk
Uy9ZMAotLS0gZ280TkNGT05VTDEwZW5WRjVPMnkxem05eWQwdkM0S09hSU1nV05a
YW5QSQom4WH7RYXsjlDm3HNKCe9gY2IfCjTY/2t6PF4bzUkeWZWkE7kd
-----END AGE ENCRYPTED FILE-----
`;
    const words = "light-original-energy-average-wish-blind-vendor-pencil-illness-scorpion";
    await expect(openEncryptedKey("x", armored, words)).rejects.toThrow(
      "x opens, but holds no private key in PEM",
    );
    await expect(openEncryptedKey("x", armored, `${words}s`)).rejects.toThrow("x does not open");
  });

  test("does not open with another passphrase, nor when a letter of it changed", async () => {
    const text = await encrypted();
    await expect(openEncryptedKey("a.key.age", text, "correct house")).rejects.toThrow(KeyUnusable);
    const at = text.length - 60;
    const changed = text.slice(0, at) + (text[at] === "A" ? "B" : "A") + text.slice(at + 1);
    await expect(openEncryptedKey("a.key.age", changed, "correct horse")).rejects.toThrow(
      /the file was changed/,
    );
  });

  test("decrypts nothing that was encrypted to another key", async () => {
    const key = await openEncryptedKey("a.key.age", await encrypted(), "correct horse");
    await expect(key.decrypt(encryptFor(testKey().publicKey, message))).rejects.toThrow(
      /encrypted to another key/,
    );
  });

  test.each([
    ["a private key in plain text", pair.privateKeyPem, /private key in plain text.*/],
    ["something else", "hello", /no armored age file/],
  ])("that is %s is refused before a passphrase is asked for", async (_, text, expected) => {
    writeFileSync(scratch("key"), text, { mode: 0o600 });
    await expect(openPrivateKey(scratch("key"))).rejects.toThrow(expected);
  });

  test("that others can read, or that is not there, is refused", async () => {
    writeFileSync(scratch("key"), await encrypted(), { mode: 0o640 });
    await expect(openPrivateKey(scratch("key"))).rejects.toThrow(/can be read by other users/);
    await expect(openPrivateKey(scratch("none"))).rejects.toThrow(/can't be read: ENOENT/);
  });

  test("opens with a passphrase from an inherited file descriptor", async () => {
    writeFileSync(scratch("key"), await encrypted(), { mode: 0o600 });
    const program = `import { openPrivateKey } from ${JSON.stringify(new URL("../../../cli/keys/open-private-key.ts", import.meta.url).href)};
      const key = await openPrivateKey(process.argv[1], { passphraseFd: "3" });
      process.stdout.write(await key.sign(Buffer.from("a message")));`;
    const words = [process.execPath, "--input-type=module", "-e", program, scratch("key")]
      .map((word) => `'${word}'`)
      .join(" ");
    const signature = execFileSync("sh", [
      "-c",
      `printf 'correct horse\\nmore' | (exec ${words} 3<&0 </dev/null)`,
    ]);
    expect(verifies(pair.publicKey, message, signature)).toBe(true);
  });
});

describe("a command", () => {
  test.each([
    ["command:sign", ["sign"]],
    ["command:  sign --key  policy ", ["sign", "--key", "policy"]],
    ['command:["/opt/my tools/sign","a b"]', ["/opt/my tools/sign", "a b"]],
    ["command:sign $HOME;rm -rf", ["sign", "$HOME;rm", "-rf"]],
  ])("%s has these words, and no shell", (spec, words) => expect(commandWords(spec)).toEqual(words));

  test.each(
    ["command:", "command:[]", 'command:["a",1]', 'command:["a"', 'command:[""]', "command:{}  "].slice(0, 5),
  )("%s is refused", (spec) => expect(() => commandWords(spec)).toThrow(KeyUnusable));

  test("gets the message on standard input, and gives the signature on standard output", async () => {
    writeFileSync(scratch("key.pem"), pair.privateKeyPem);
    const program = executable(
      "sign",
      `#!/bin/sh\n[ "$EDGESEAL_OPERATION" = sign ] && [ $# -eq 0 ] && exec openssl dgst -sha256 -sign ${scratch("key.pem")}\n`,
    );
    expect(verifies(pair.publicKey, message, await commandKey(`command:${program}`).sign(message))).toBe(
      true,
    );
  });

  test("decrypts", async () => {
    writeFileSync(scratch("key.pem"), pair.privateKeyPem);
    const program = executable(
      "decrypt",
      `#!/bin/sh\n[ "$EDGESEAL_OPERATION" = decrypt ] && exec openssl pkeyutl -decrypt -inkey "$1" -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256\n`,
    );
    const key = commandKey(`command:${program} ${scratch("key.pem")}`);
    expect(await key.decrypt(encryptFor(pair.publicKey, message))).toEqual(message);
  });

  test.each([
    ["is not there", "command:/nowhere/sign", /the command \/nowhere\/sign: there is no such program/],
    ["fails", "command:false", /the command false: it ended with exit status 1/],
    ["is killed", 'command:["sh","-c","kill -TERM $$"]', /it ended by SIGTERM/],
    ["does not read its input, and fails", 'command:["sh","-c","exec <&-; exit 3"]', /exit status 3/],
    ["floods us", 'command:["head","-c","70000","/dev/zero"]', /70000 bytes came back/],
  ])("that %s is told", async (_, spec, expected) => {
    await expect(commandKey(spec).sign(Buffer.alloc(100_000))).rejects.toThrow(KeyUnusable);
    await expect(commandKey(spec).sign(Buffer.alloc(100_000))).rejects.toThrow(expected);
  });
});

describe("a PKCS#11 URI", () => {
  test("names module, token and key", () => {
    expect(
      parsePkcs11Uri(
        "pkcs11:token=my%20token;object=policy;id=%01%ff;type=private?module-path=/usr/lib/x.so",
      ),
    ).toEqual({
      name: "pkcs11:token=my%20token;object=policy;id=%01%ff;type=private",
      module: "/usr/lib/x.so",
      find: ["--token-label", "my token", "--label", "policy", "--id", "01ff"],
      pinFile: undefined,
    });
  });

  test.each(["file:/run/pin", "file:///run/pin", "/run/pin"])(
    "may name a file with the PIN: %s",
    (source) => {
      expect(parsePkcs11Uri(`pkcs11:object=policy?module-path=/x.so&pin-source=${source}`).pinFile).toBe(
        "/run/pin",
      );
    },
  );

  test.each([
    ["a PIN", "pkcs11:object=policy?module-path=/x.so&pin-value=1234", /has a PIN in it/],
    ["no module", "pkcs11:object=policy", /has no module-path/],
    ["no key", "pkcs11:token=x?module-path=/x.so", /neither object nor id/],
    ["a certificate", "pkcs11:object=policy;type=cert?module-path=/x.so", /object of type cert/],
    [
      "an attribute that we would not heed",
      "pkcs11:object=policy;serial=1?module-path=/x.so",
      /the attribute serial/,
    ],
    ["an attribute twice", "pkcs11:object=policy;object=x?module-path=/x.so", /has object twice/],
    ["a word that is no attribute", "pkcs11:policy?module-path=/x.so", /not NAME=VALUE/],
    ["half an escape", "pkcs11:object=a%4?module-path=/x.so", /not NAME=VALUE/],
    ["two queries", "pkcs11:object=policy?module-path=/x.so?a=b", /two question marks/],
  ])("with %s is refused", (_, spec, expected) => {
    expect(() => parsePkcs11Uri(spec)).toThrow(KeyUnusable);
    expect(() => parsePkcs11Uri(spec)).toThrow(expected);
  });
});

describe("a PKCS#11 key", () => {
  const uri = (query = "") => `pkcs11:token=edgeseal;object=policy?module-path=/x.so${query}`;

  /** Stands for pkcs11-tool: notes how it was called, and does the work with a key in a file. */
  function fakeTool(): string {
    writeFileSync(scratch("key.pem"), pair.privateKeyPem);
    return executable(
      "pkcs11-tool",
      `#!/bin/sh
printf '%s\\n' "$@" > ${scratch("arguments")}
printf '%s' "\${EDGESEAL_PKCS11_PIN-none}" > ${scratch("pin")}
echo "Using signature algorithm"
while [ $# -gt 0 ]; do case $1 in --input-file) in=$2 ;; --output-file) out=$2 ;; --sign) sign=1 ;; esac; shift; done
stat -c %a "\${in%/*}" > ${scratch("mode")}
if [ -n "\${sign-}" ]; then openssl dgst -sha256 -sign ${scratch("key.pem")} -out "$out" "$in"
else openssl pkeyutl -decrypt -inkey ${scratch("key.pem")} -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -in "$in" -out "$out"; fi
`,
    );
  }
  const called = (): readonly string[] => readFileSync(scratch("arguments"), "utf8").trim().split("\n");

  test("is asked through pkcs11-tool, with the data in a folder that only we can enter", async () => {
    expect(verifies(pair.publicKey, message, await pkcs11Key(uri(), fakeTool()).sign(message))).toBe(true);
    const words = called();
    const input = words[words.indexOf("--input-file") + 1] ?? "";
    expect(words).toEqual([
      ...["--module", "/x.so", "--token-label", "edgeseal", "--label", "policy", "--login"],
      ...[
        "--sign",
        "--mechanism",
        "SHA256-RSA-PKCS",
        "--input-file",
        input,
        "--output-file",
        input.replace(/input$/, "output"),
      ],
    ]);
    expect(readFileSync(scratch("mode"), "utf8").trim()).toBe("700");
    expect(existsSync(input), "nothing is left").toBe(false);
  });

  test("decrypts OAEP with SHA-256", async () => {
    const key = pkcs11Key(uri(), fakeTool());
    expect(await key.decrypt(encryptFor(pair.publicKey, message))).toEqual(message);
    expect(called().join(" ")).toContain(
      "--decrypt --mechanism RSA-PKCS-OAEP --hash-algorithm SHA256 --mgf MGF1-SHA256",
    );
  });

  test("has its PIN from a file, and never in an argument", async () => {
    writeFileSync(scratch("pin-file"), "4711\n", { mode: 0o600 });
    await pkcs11Key(uri(`&pin-source=file:${scratch("pin-file")}`), fakeTool()).sign(message);
    expect(readFileSync(scratch("pin"), "utf8")).toBe("4711");
    expect(called()).toEqual(expect.arrayContaining(["--pin", "env:EDGESEAL_PKCS11_PIN"]));
    expect(called().join(" ")).not.toContain("4711");
    expect(process.env["EDGESEAL_PKCS11_PIN"]).toBeUndefined();
  });

  test("without the tool, or with one that fails, is told with the mend", async () => {
    await expect(pkcs11Key(uri(), "/nowhere/pkcs11-tool").sign(message)).rejects.toThrow(
      /there is no such program/,
    );
    const failing = pkcs11Key(uri(), executable("failing", "#!/bin/sh\nexit 1\n")).sign(message);
    await expect(failing).rejects.toThrow(
      /for pkcs11:token=edgeseal;object=policy: it ended with exit status 1/,
    );
    await expect(failing).rejects.toMatchObject({ hint: expect.stringContaining("opensc") as string });
  });

  test("in a real token signs", async (context) => {
    const { spec, publicKey, pinFile } = softToken(context, scratch);
    const key = await openPrivateKey(spec);
    expect(verify("sha256", message, publicKey, await key.sign(message))).toBe(true);
    writeFileSync(pinFile, "0815\n");
    await expect((await openPrivateKey(spec)).sign(message)).rejects.toThrow(KeyUnusable);
  });
});
