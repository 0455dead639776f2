import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import * as approve from "../../../cli/approve.ts";
import { policyKeyOf, requireKeyOfSite } from "../../../cli/approve/policy-key.ts";
import { UserError } from "../../../cli/errors.ts";
import { makeKeys, rotatePolicyKey, type PrivateHalf } from "../../../cli/keys/make-keys.ts";
import { siteNode } from "../../../cli/site-node.ts";
import { visible } from "../../../cli/visible.ts";
import { parseApproval, verifyApproval } from "../../../provider/trust/approval.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { formatEventLog, pcr11Of } from "../../../provider/trust/event-log.ts";
import { testKey } from "../trust/keys.ts";
import { measurement, type Boot } from "../trust/measurement.ts";
import { scratchFolder } from "./scratch.ts";

const scratch = scratchFolder();
const passphrase = "correct horse battery";
const inFile: PrivateHalf = { in: "file", passphrase, workFactor: 4 };
const recoveryKey = testKey("recovery");
const recovery: PrivateHalf = {
  in: "elsewhere",
  spec: "command:recover",
  key: recoveryKey.privateKey,
  publicKeyPem: recoveryKey.publicKeyPem,
};
const now = new Date("2027-01-01T00:00:00Z");

/** Keys take their time to be found: the same for every test. */
const readyMade = mkdtempSync(join(tmpdir(), "edgeseal-ready-made-"));
beforeAll(() => makeKeys(join(readyMade, "keys"), { site: "plant", policy: inFile, recovery, now }));
afterAll(() => rmSync(readyMade, { recursive: true }));

let printed: string[];
beforeEach(() => {
  printed = [];
  vi.spyOn(console, "log").mockImplementation((line: string) => void printed.push(line));
  process.exitCode = undefined;
  cpSync(join(readyMade, "keys"), scratch("keys"), { recursive: true });
  chmodSync(scratch("keys"), 0o700);
  writeFileSync(scratch("passphrase"), `${passphrase}\n`, { mode: 0o600 });
});
afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

/** Writes a measurement, and gives the words that name it. */
function measured(boot: Boot = {}): readonly string[] {
  const { log, texts } = measurement(boot);
  writeFileSync(scratch("log"), formatEventLog(log));
  mkdirSync(scratch("texts"), { recursive: true });
  for (const text of texts) writeFileSync(scratch("texts", sha256Hex(text)), text);
  return ["--log", scratch("log"), "--texts", scratch("texts")];
}

const exitCode = (): number => Number(process.exitCode ?? 0);

/** Runs the command, and gives its exit status and what it printed. */
async function run(...words: readonly string[]): Promise<{ code: number; output: string }> {
  printed = [];
  process.exitCode = undefined;
  const program = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
  approve.register(program);
  const common = ["--approvals", scratch("approvals")];
  await program.parseAsync(["approve", ...words, ...common], { from: "user" });
  return { code: exitCode(), output: printed.join("\n") };
}

const withKeys = () => ["--keys", scratch("keys"), "--passphrase-file", scratch("passphrase")];
const approveIt = (boot: Boot = {}, ...more: readonly string[]) =>
  run("pi-1", ...measured(boot), ...withKeys(), "--yes", ...more);
const written = () => parseApproval(readFileSync(scratch("approvals", "pi-1.json"), "utf8"));
const problems = (generation = 1) =>
  verifyApproval(written(), {
    node: "pi-1",
    generation,
    publicKeyPem: readFileSync(scratch("keys", `policy-${generation}.pub.pem`), "utf8"),
  });

describe("approving", () => {
  test("a node's first state writes its approval, which verifies, and the texts behind its digests", async () => {
    const { code, output } = await approveIt();
    expect(code).toBe(0);
    expect(output).toContain("nothing was approved for this node before: every event is new");
    expect(output).toMatch(/added {4}file config\.txt/);
    const [, ...words] = output.slice(output.indexOf("added    cmdline")).split("\n");
    expect(words.slice(0, 4).map((line) => line.trim())).toEqual([
      "added    coherent_pool=1M",
      "added    console=tty1",
      "added    root=PARTUUID=1-02",
      "added    rootwait",
    ]);
    expect(output).toContain(`approved: wrote ${scratch("approvals", "pi-1.json")} (1 approved)`);
    expect(problems()).toEqual([]);
    const { log } = measurement();
    expect(written().states).toMatchObject([
      { pcr11: pcr11Of(log.events), reason: "first approved state (next boot)" },
    ]);
    const kept = readdirSync(scratch("approvals", "measured"));
    expect(kept).toHaveLength(4);
    for (const name of kept) {
      expect(sha256Hex(readFileSync(scratch("approvals", "measured", name)))).toBe(name.replace(".txt", ""));
    }
  });

  test("a further one shows what changed, by file, word and property, and keeps those before", async () => {
    await approveIt();
    const { output } = await approveIt({
      files: { "config.txt": "arm_64bit=1\n", "kernel_2712.img": "new", "autoboot.txt": "x" },
      overlays: { "tpm-slb9670.dtbo": "other", "uart0.dtbo": "uart" },
      cmdline: "coherent_pool=1M console=tty1 root=PARTUUID=1-02 init=/bin/sh",
      deviceTree: { "chosen/bootloader/signed": "\u0009", model: "Raspberry Pi 5" },
    });
    const lines = output.split("\n");
    expect(lines).toEqual(
      expect.arrayContaining([
        expect.stringMatching(
          /^ {2}changed {2}file kernel_2712\.img {2}[0-9a-f]{16}\.\.\. -> [0-9a-f]{16}\.\.\.$/,
        ),
        expect.stringMatching(/^ {2}added {4}file autoboot\.txt {2}[0-9a-f]{16}\.\.\.$/),
        "  changed  tree overlays",
        expect.stringMatching(/^ {13}changed {2}overlays\/tpm-slb9670\.dtbo {2}[0-9a-f]{16}\.\.\. -> /),
        "  changed  cmdline",
        "             added    init=/bin/sh",
        "             removed  rootwait",
        "  changed  devicetree",
        expect.stringMatching(/^ {13}changed {2}chosen\/bootloader\/signed/),
      ]),
    );
    expect(output, "the list of names says nothing more").not.toContain("tree /");
    expect(output).toContain("2 approved");
    expect(written().states.map(({ reason }) => reason)).toEqual([
      "first approved state (next boot)",
      "changed file kernel_2712.img, added file autoboot.txt, changed tree overlays, changed cmdline, changed devicetree",
    ]);
    expect(problems()).toEqual([]);
  });

  test("shows a rename that no digest of a file would tell", async () => {
    await approveIt({ files: { "config.txt": "a", "kernel_2712.img": "k" } });
    const { output } = await run(
      "pi-1",
      ...measured({ files: { "config.txt": "a", "kernel8.img": "k" } }),
      ...withKeys(),
      "--dry-run",
    );
    expect(output).toMatch(/added {4}file kernel8\.img/);
    expect(output).toMatch(/removed {2}file kernel_2712\.img/);
  });

  test("says so where a listing is not known", async () => {
    await approveIt();
    const [, log = ""] = measured({ overlays: { "x.dtbo": "x" } });
    const { output } = await run("pi-1", "--log", log, ...withKeys(), "--dry-run");
    expect(output).toContain("what changed in it is not known");
  });

  test("takes the reason that is given", async () => {
    await approveIt({}, "--reason", "Kernel 6.12.62, change 4711");
    expect(written().states[0]?.reason).toBe("Kernel 6.12.62, change 4711");
    for (const reason of ["", "two\nlines", "x".repeat(501), "a\u202eb"]) {
      await expect(approveIt({ cmdline: "x" }, "--reason", reason)).rejects.toThrow(
        /--reason takes one line/,
      );
    }
  });

  test("what is approved already writes nothing, and asks for no passphrase", async () => {
    await approveIt();
    const before = readFileSync(scratch("approvals", "pi-1.json"));
    const { code, output } = await run("pi-1", ...measured(), "--keys", scratch("keys"));
    expect(code).toBe(0);
    expect(output).toContain("this state is approved already");
    expect(readFileSync(scratch("approvals", "pi-1.json"))).toEqual(before);
  });

  test("without a yes, or with --dry-run, writes nothing and ends with 4", async () => {
    for (const more of [["--json"], ["--dry-run"], ["--dry-run", "--yes"]]) {
      expect((await run("pi-1", ...measured(), ...withKeys(), ...more)).code).toBe(4);
      expect(existsSync(scratch("approvals"))).toBe(false);
    }
  });

  test("keeps the texts of states that are approved somewhere, and of no others", async () => {
    await approveIt();
    await run("pi-2", ...measured({ node: "pi-2", cmdline: "of pi-2" }), ...withKeys(), "--yes");
    await approveIt({ cmdline: "new" });
    const first = written().states[0]?.pcr11 ?? "";
    await run("pi-1", "--forget", first, ...withKeys(), "--yes");
    const kept = readdirSync(scratch("approvals", "measured"));
    expect(kept).toContain(`${sha256Hex("new")}.txt`);
    expect(kept).toContain(`${sha256Hex("of pi-2")}.txt`);
    expect(kept).not.toContain(`${sha256Hex(measurement().texts[2] ?? "")}.txt`);
  });
});

describe("as JSON", () => {
  test("everything is told to programs, and nothing else is printed", async () => {
    const { code, output } = await approveIt({}, "--json");
    expect(code).toBe(0);
    expect(JSON.parse(output)).toMatchObject({
      node: "pi-1",
      state: "next",
      pcr11: pcr11Of(measurement().log.events),
      alreadyApproved: false,
      objections: [],
      written: scratch("approvals", "pi-1.json"),
    });
    const again = JSON.parse((await approveIt({ cmdline: "x" }, "--json", "--dry-run")).output) as object;
    expect(again).toMatchObject({
      comparedWith: { generation: 1, reason: "first approved state (next boot)" },
      changes: [{ change: "changed", type: "cmdline", name: "" }],
      written: null,
    });
  });
});

describe("refused is", () => {
  test.each<[string, Boot, (log: string) => string, RegExp]>([
    ["the log of another node", { node: "pi-2" }, (log) => log, /the log of pi-2, not of pi-1/],
    [
      "a measurement with a failure",
      {},
      (log) => `${log}11\tfailed\tcmdline\t${sha256Hex("failed")}\tno%20file\n`,
      /can't be approved: cmdline could not be measured: no file/,
    ],
    [
      "a log from a TPM that was not reset",
      {},
      (log) => log.replace(/start\t11\t0+/, `start\t11\t${sha256Hex("x")}`),
      /the TPM was not reset/,
    ],
    [
      "a log that ends too early",
      {},
      (log) => log.split("\n").slice(0, -2).join("\n") + "\n",
      /there is no 'devicetree' event/,
    ],
  ])("%s, with 6, whatever --yes says", async (_, boot, change, message) => {
    const words = measured(boot);
    writeFileSync(scratch("log"), change(readFileSync(scratch("log"), "utf8")));
    const { code, output } = await run("pi-1", ...words, ...withKeys(), "--yes");
    expect(code).toBe(6);
    expect(output).toMatch(message);
    expect(existsSync(scratch("approvals"))).toBe(false);
  });

  test("what the device reports differently than a trusted copy, with 5", async () => {
    const words = measured({
      files: { "config.txt": "c", "kernel_2712.img": "implant" },
      overlays: { "tpm.dtbo": "t" },
    });
    mkdirSync(scratch("copy", "overlays"), { recursive: true });
    writeFileSync(scratch("copy", "config.txt"), "c");
    writeFileSync(scratch("copy", "kernel_2712.img"), "kernel");
    writeFileSync(scratch("copy", "overlays", "tpm.dtbo"), "t");
    const artifacts = ["--artifacts", scratch("copy")];
    const refused = await run("pi-1", ...words, ...withKeys(), ...artifacts, "--yes");
    expect(refused.code).toBe(5);
    expect(refused.output).toContain("THE DEVICE REPORTS SOMETHING ELSE THAN THE TRUSTED COPY HAS:");
    expect(refused.output).toContain("    different: file kernel_2712.img");
    expect(existsSync(scratch("approvals"))).toBe(false);

    writeFileSync(scratch("copy", "kernel_2712.img"), "implant");
    const taken = await run("pi-1", ...words, ...withKeys(), ...artifacts, "--yes");
    expect(taken.output).toContain("the trusted copy confirms 4 events");
    expect(taken.code).toBe(0);
  });

  test("an approval so far that was changed by hand: it would be signed anew with all that is in it", async () => {
    await approveIt();
    const path = scratch("approvals", "pi-1.json");
    writeFileSync(path, readFileSync(path, "utf8").replace("first approved", "FIRST approved"));
    await expect(approveIt({ cmdline: "x" })).rejects.toThrow(
      /can't be built on:\nsignature: not a signature/,
    );
    writeFileSync(path, "{}");
    await expect(approveIt({ cmdline: "x" })).rejects.toThrow(/can't be used:\n.*required, but not given/);
  });

  test.each<[string, readonly string[], RegExp]>([
    ["no source of the state", ["--keys", "KEYS"], /where is the state to be read\?/],
    ["no key", ["--log", "LOG"], /which policy key\?/],
    [
      "the running state from a file",
      ["--log", "LOG", "--keys", "KEYS", "--current"],
      /--current asks the node's TPM/,
    ],
    ["a log that is not there", ["--log", "NONE", "--keys", "KEYS"], /can't be read: ENOENT/],
    [
      "a key of another folder without its public half",
      ["--log", "LOG", "--policy-key", "command:sign"],
      /is in no folder of keys, so its public half and generation are not known/,
    ],
    [
      "half of a key's description",
      ["--log", "LOG", "--policy-key", "command:sign", "--generation", "1"],
      /belong together/,
    ],
    [
      "a generation that is none",
      ["--log", "LOG", "--policy-key", "command:sign", "--policy-public-key", "PUBLIC", "--generation", "0"],
      /a whole number from 1/,
    ],
  ])("%s", async (_, words, message) => {
    measured();
    const places: Record<string, string> = {
      KEYS: scratch("keys"),
      LOG: scratch("log"),
      NONE: scratch("none"),
      PUBLIC: scratch("keys", "policy-1.pub.pem"),
    };
    const placed = words.map((word) => places[word] ?? word);
    await expect(run("pi-1", ...placed, "--yes")).rejects.toThrow(UserError);
    await expect(run("pi-1", ...placed, "--yes")).rejects.toThrow(message);
  });

  test.each(["../pi-1", "Pi-1", "", "a/b", "pi_1"])(
    "the node's name %j, which would be a path",
    async (name) => {
      await expect(run(name, ...measured(), ...withKeys(), "--yes")).rejects.toThrow(
        /can't be a node's name/,
      );
    },
  );
});

describe("keys", () => {
  const rotate = () =>
    rotatePolicyKey(scratch("keys"), { policy: inFile, now: new Date("2027-02-01T00:00:00Z") });

  test("of a new generation approve anew, and carry nothing over", async () => {
    await approveIt();
    await rotate();
    const { output } = await approveIt({ cmdline: "x" });
    expect(output).toContain(
      "1 state approved by generation 1 of the policy key, now revoked, will not be carried over",
    );
    expect(output).toContain("changed  cmdline");
    expect(written()).toMatchObject({ generation: 2, states: [{ reason: "changed cmdline" }] });
    expect(written().states).toHaveLength(1);
    expect(problems(2)).toEqual([]);
  });

  test("approve the same state for a new generation", async () => {
    await approveIt();
    await rotate();
    const { code, output } = await approveIt();
    expect(output).toContain("nothing changed");
    expect(code).toBe(0);
    expect(written()).toMatchObject({ generation: 2, states: [{ reason: "no change" }] });
  });

  test("of a revoked generation approve nothing, by their file or against a newer approval", async () => {
    cpSync(scratch("keys"), scratch("old-keys"), { recursive: true });
    chmodSync(scratch("old-keys"), 0o700);
    await rotate();
    const old = scratch("keys", "policy-1.key.age");
    await expect(run("pi-1", ...measured(), "--policy-key", old, "--yes")).rejects.toThrow(
      /is generation 1 of the policy key, revoked on 2027-02-01T00:00:00Z: it approves nothing any more/,
    );
    await approveIt();
    await expect(
      run("pi-1", ...measured({ cmdline: "x" }), "--keys", scratch("old-keys"), "--yes"),
    ).rejects.toThrow(/is of generation 2 of the policy key, and yours is generation 1: it was revoked/);
  });

  test("in a file of a folder of keys say themselves what they are", async () => {
    const words = [
      "--policy-key",
      scratch("keys", "policy-1.key.age"),
      "--passphrase-file",
      scratch("passphrase"),
    ];
    expect((await run("pi-1", ...measured(), ...words, "--yes")).code).toBe(0);
    expect(problems()).toEqual([]);
  });

  test("behind a command approve, with their public half and generation", async () => {
    const pair = testKey();
    writeFileSync(scratch("key.pem"), pair.privateKeyPem);
    writeFileSync(scratch("key.pub.pem"), pair.publicKeyPem);
    const words = [
      ...["--policy-key", `command:openssl dgst -sha256 -sign ${scratch("key.pem")}`],
      ...["--policy-public-key", scratch("key.pub.pem"), "--generation", "7"],
    ];
    expect((await run("pi-1", ...measured(), ...words, "--yes")).code).toBe(0);
    const approval = written();
    expect(
      verifyApproval(approval, { node: "pi-1", generation: 7, publicKeyPem: pair.publicKeyPem }),
    ).toEqual([]);
  });

  test("that sign something else are found out, and nothing is written", async () => {
    writeFileSync(scratch("other.pem"), testKey().privateKeyPem);
    const words = [
      ...["--policy-key", `command:openssl dgst -sha256 -sign ${scratch("other.pem")}`],
      ...["--policy-public-key", scratch("keys", "policy-1.pub.pem"), "--generation", "1"],
    ];
    await expect(run("pi-1", ...measured(), ...words, "--yes")).rejects.toThrow(
      /is not one of the public key/,
    );
    expect(existsSync(scratch("approvals"))).toBe(false);
  });
});

describe("the key that the site file names", () => {
  const keyOf = () => policyKeyOf({ keys: scratch("keys") });
  const named = (name: string, pem: string): string => {
    writeFileSync(scratch(name), pem);
    return scratch(name);
  };
  const other = (): string => named("other.pub.pem", testKey().publicKeyPem);
  const own = (generation: number): string => scratch("keys", `policy-${generation}.pub.pem`);

  test("is the one that signs", async () => {
    await expect(requireKeyOfSite(await keyOf(), { generation: 1, file: own(1) })).resolves.toBeUndefined();
  });

  test("is not that of another site, before anything is signed", async () => {
    const refused = requireKeyOfSite(await keyOf(), { generation: 1, file: other() });
    await expect(refused).rejects.toThrow(UserError);
    await expect(refused).rejects.toThrow(/it is the key of another site/);
  });

  test("may be a generation behind, of the same site", async () => {
    await rotatePolicyKey(scratch("keys"), { policy: inFile, now });
    const key = await keyOf();
    await expect(requireKeyOfSite(key, { generation: 1, file: own(1) })).resolves.toBeUndefined();
    await expect(requireKeyOfSite(key, { generation: 1, file: other() })).rejects.toThrow(/another site/);
  });

  test("that can't be read is told", async () => {
    await expect(
      requireKeyOfSite(await keyOf(), { generation: 1, file: scratch("none.pem") }),
    ).rejects.toThrow(/none\.pem can't be read/);
  });
});

describe("--forget", () => {
  const forget = (pcr11: string, ...more: readonly string[]) =>
    run("pi-1", "--forget", pcr11, ...withKeys(), ...more);

  test("withdraws a state, and says plainly that this revokes nothing", async () => {
    await approveIt();
    await approveIt({ cmdline: "x" });
    const [first, second] = written().states;
    const { code, output } = await forget(first?.pcr11.slice(0, 12) ?? "", "--yes");
    expect(code).toBe(0);
    expect(output).toContain("This does not revoke the state.");
    expect(output).toContain("Only a new generation of the policy key ends that: edgeseal keys rotate");
    expect(written().states).toEqual([second]);
    expect(problems()).toEqual([]);
  });

  test("tells what is approved, where nothing fits", async () => {
    await approveIt();
    await expect(forget("00000000", "--yes")).rejects.toThrow(
      /no approved state of pi-1 .* begins with 00000000; approved are:\n[0-9a-f]{64} {2}/,
    );
    await expect(forget("abc", "--yes")).rejects.toThrow(/64 hex digits, or the first 8 or more/);
    await expect(run("pi-9", "--forget", "00000000", ...withKeys())).rejects.toThrow(
      /there is no approval of pi-9/,
    );
  });

  test("writes nothing without a yes, nor to an approval that was changed", async () => {
    await approveIt();
    const [state] = written().states;
    const path = scratch("approvals", "pi-1.json");
    const before = readFileSync(path, "utf8");
    expect((await forget(state?.pcr11 ?? "", "--json")).code).toBe(4);
    expect(readFileSync(path, "utf8")).toBe(before);
    writeFileSync(path, before.replace("first approved", "FIRST approved"));
    await expect(forget(state?.pcr11 ?? "", "--yes")).rejects.toThrow(/can't be built on/);
  });

  test("goes with none of the options that read a state", async () => {
    await expect(run("pi-1", "--forget", "00000000", ...measured(), ...withKeys())).rejects.toThrow(
      /cannot be used with/,
    );
  });
});

describe("what a device says", () => {
  test("can't move the cursor or hide what follows", async () => {
    const files = { "config.txt\u001b[2K\r": "x", "a\u202eb": "y" };
    const { output } = await run("pi-1", ...measured({ files }), ...withKeys(), "--dry-run");
    expect(output).toContain("file config.txt\\u{1b}[2K\\u{d}");
    expect(output).toContain("file a\\u{202e}b");
    expect(output).not.toMatch(/[\u001b\u202e]/);
  });

  test("goes into a default reason in plain letters only", async () => {
    await approveIt();
    await approveIt({
      files: { "config.txt": "arm_64bit=1\n", "kernel_2712.img": "kernel", "é\u001b": "x" },
    });
    expect(written().states[1]?.reason).toBe("added file ??");
  });

  test.each([
    ["plain – ü 漢 😀", "plain – ü 漢 😀"],
    ["\u0000\u007f\u0085", "\\u{0}\\u{7f}\\u{85}"],
    ["\u200b\u2028\ufeff\ud800", "\\u{200b}\\u{2028}\\u{feff}\\u{d800}"],
  ])("is shown as %j", (text, shown) => expect(visible(text)).toBe(shown));
});

describe("a node of a site file", () => {
  const hostKey = `SHA256:${"A".repeat(43)}`;
  const site = (node: string, more = ""): string => {
    const text = `site: x\n${more}nodes:\n  - { name: pi-1, address: 192.0.2.1, hostKey: "${hostKey}"${node} }\n`;
    writeFileSync(scratch("site.yaml"), text);
    return scratch("site.yaml");
  };
  const connectionOf = async (file: string, name = "pi-1", stack?: string) =>
    (await siteNode(file, name, stack)).connection();

  test("is reached as its fields say, and by the defaults", async () => {
    expect(await connectionOf(site(", identityFile: ~/.ssh/id"))).toEqual({
      ...{ node: "pi-1", address: "192.0.2.1", hostKey, port: 22, user: "edgeseal" },
      identityFile: "~/.ssh/id",
    });
    expect(await connectionOf(site(", identityCommand: pass edge"))).toMatchObject({
      identityCommand: "pass edge",
    });
    expect(await connectionOf(site(", port: 2222, user: root, agent: /run/agent"))).toMatchObject({
      ...{ port: 2222, user: "root", agent: "/run/agent" },
    });
  });

  test("that is not there is refused, with the nearest name", async () => {
    await expect(siteNode(site(""), "pi1")).rejects.toMatchObject({ hint: "did you mean pi-1?" });
    await expect(siteNode(site(", prot: 1"), "pi-1")).rejects.toThrow(/unknown field; did you mean 'port'/);
    await expect(siteNode(join(scratch(), "none.yaml"), "pi-1")).rejects.toThrow(
      /there is no such site file/,
    );
  });

  test("has its approvals in the site's folder of them", async () => {
    expect((await siteNode(site(""), "pi-1")).approvals).toBe(join(scratch(), "..", "approvals"));
  });

  test("has a private key from Pulumi's configuration, and never shows it", async () => {
    mkdirSync(scratch("bin"));
    const pulumi = (text: string): void => writeFileSync(scratch("bin", "pulumi"), text, { mode: 0o755 });
    const before = process.env["PATH"];
    process.env["PATH"] = `${scratch("bin")}:${before ?? ""}`;
    try {
      pulumi(`#!/bin/sh\n[ "$*" = "config get sshKey --stack plant" ] && printf 'the key\\n'\n`);
      const file = site(", privateKey: { config: sshKey }");
      expect((await connectionOf(file, "pi-1", "plant")).privateKey).toBe("the key\n");
      pulumi(`#!/bin/sh\necho "half a key"; echo "error: no stack selected" >&2; exit 255\n`);
      const failing = connectionOf(file);
      await expect(failing).rejects.toThrow("pulumi config get sshKey: error: no stack selected");
      await expect(failing).rejects.not.toThrow("half a key");
    } finally {
      process.env["PATH"] = before;
    }
  });
});
