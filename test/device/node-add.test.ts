import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { parseSite } from "../../components/site-file/read.ts";
import { fingerprint } from "../../provider/device/host-key.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";

const main = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxOJZ0vJH8pR2fNrhhtHdPm0nMlyCgHxxdbXfEVPYpR";

let node: NamespaceNode;
/** What the node's console shows. */
let checkLine: string;
let folder: string;
beforeAll(async () => {
  node = await NamespaceNode.start({ name: "pi-new" });
  folder = await mkdtemp(join(tmpdir(), "edgeseal-node-add-"));
  // Printed by the command, and run on the node from outside: no connection is made for it.
  const { stdout: script } = await edgeseal("node", "console-script");
  checkLine = /^check +(.*)$/m.exec(await node.must(script))?.[1] ?? "";
});
afterAll(async () => {
  await node.stop();
  await rm(folder, { recursive: true });
});

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const outcomeOf = async (child: ChildProcess): Promise<Outcome> => {
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout as NodeJS.ReadableStream),
    text(child.stderr as NodeJS.ReadableStream),
    once(child, "close") as Promise<[number | null]>,
  ]);
  return { code, stdout, stderr };
};

/** Runs the command in a session without a terminal. */
const edgeseal = (...words: readonly string[]): Promise<Outcome> =>
  outcomeOf(spawn(process.execPath, [main, ...words], { detached: true, stdio: ["ignore", "pipe", "pipe"] }));

/** How the node is reached. */
const reach = (): readonly string[] => {
  const { port, user, identityFile = "" } = node.connection;
  return ["--port", String(port), "--user", user, "--identity-file", identityFile];
};
const add = (...words: readonly string[]): Promise<Outcome> =>
  edgeseal("node", "add", node.connection.address, ...reach(), ...words);

/** The same at a terminal, at which somebody types an answer to the question. */
async function addAtTerminal(
  answer: string,
): Promise<{ readonly code: number | null; readonly shown: string }> {
  const words = [process.execPath, main, "node", "add", node.connection.address, ...reach()];
  const child = spawn("script", ["--quiet", "--return", "--command", words.join(" "), "/dev/null"], {
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
  });
  let shown = "";
  child.stdout.on("data", (chunk: Buffer) => {
    const asked = /Type what the console shows/.test(shown);
    shown += chunk.toString();
    if (!asked && /Type what the console shows[^]*: $/.test(shown)) child.stdin.write(answer);
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { code, shown };
}

const log = (): Promise<string> =>
  node.must("journalctl --sync; journalctl -q -o cat -t sshd -t sshd-session");
/** What sshd says of any authentication, also of one that was only begun. */
const authentication = /userauth|Accepted|Failed|Postponed|authenticat(ed|ing)|user edge/i;

/** What sshd logged during an action. */
async function during<T>(action: () => Promise<T>): Promise<{ readonly logged: string; readonly result: T }> {
  const before = (await log()).length;
  const result = await action();
  return { result, logged: (await log()).slice(before) };
}

const siteText = `# The plant
site: plant
defaults:
  user: edge   # on every node
  firewall: { management: [192.0.2.0/24] }

nodes:
  # The first one
  - name: pi-1
    address: 192.0.2.1
    hostKey: ${otherKey}

waivers: []
`;
const siteFile = (): string => join(folder, "plant.yaml");
beforeEach(() => writeFile(siteFile(), siteText));

describe("a device whose check line was read at its console", () => {
  test("is read with one exec, and its block is printed", async () => {
    const before = await node.sshdCounts();
    const { logged, result } = await during(() => add("--expect", checkLine));
    expect([result.code, result.stderr]).toEqual([0, expect.stringContaining("compared: --expect")]);
    const [block] = parse(result.stdout) as object[];
    expect(block).toMatchObject({
      name: "pi-new",
      address: node.connection.address,
      hostKey: node.connection.hostKey,
      user: "edge",
    });
    const after = await node.sshdCounts();
    // One that asks for the key, and one that logs in.
    expect(after.connections - before.connections).toBe(2);
    expect(after.execs - before.execs).toBe(1);
    // The control of the tests below: a login leaves such lines.
    expect(logged).toMatch(authentication);
  });

  test("is told what is missing, as it is in effect: observed by every kind, judged by the gate's controls", async () => {
    const { stdout } = await add("--expect", checkLine, "--json");
    const { missing, device } = JSON.parse(stdout) as {
      missing: { point: number; controls: { control: string; device: { evidence: string } }[] }[];
      device: { system: object; unknown: object };
    };
    expect(missing.map(({ point }) => point)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const found = new Map(missing.flatMap(({ controls }) => controls).map((each) => [each.control, each]));
    expect(found.get("3.core-dumps-off")?.device.evidence).toContain("systemd-coredump");
    expect(found.get("5.default-deny")?.device.evidence).toBe("not there");
    expect(device.system).toMatchObject({
      hostName: "pi-new",
      operatingSystem: "Debian GNU/Linux 13 (trixie)",
    });
    expect(device.unknown).toEqual({});
  });

  test("is added to a site file, once, and nothing else in the file is touched", async () => {
    const words = ["--expect", checkLine, "--site", siteFile(), "--name", "pi-2"];
    const { code, stdout } = await add(...words);
    expect([code, stdout]).toEqual([0, `added node pi-2 to ${siteFile()}\n`]);
    const written = await readFile(siteFile(), "utf8");
    const added = written.slice(written.indexOf("  - name: pi-2"), written.indexOf("\nwaivers"));
    expect(written.replace(added, "")).toBe(siteText);
    const { address, hostKey, port, user, identityFile } = node.connection;
    expect(parseSite(siteFile(), written).nodes[1]).toMatchObject({
      name: "pi-2",
      address,
      hostKey,
      port,
      user,
      identityFile,
    });

    const again = await during(() => add(...words));
    expect(again.result.code).toBe(1);
    expect(again.result.stderr).toMatch(/has a node pi-2 already/);
    expect(again.logged).toBe("");
    expect(await readFile(siteFile(), "utf8")).toBe(written);
  });

  test("is shown with --dry-run, and the file stays", async () => {
    const { code, stdout } = await add(
      "--expect",
      checkLine,
      "--site",
      siteFile(),
      "--name",
      "pi-2",
      "--dry-run",
    );
    expect([code, parse(stdout)]).toMatchObject([0, [{ name: "pi-2" }]]);
    expect(await readFile(siteFile(), "utf8")).toBe(siteText);
  });
});

describe("a device that shows another host key than the expected one", () => {
  test.each([
    ["a key", ["--host-key", otherKey]],
    ["a fingerprint", ["--host-key", fingerprint(Buffer.from(otherKey.split(" ")[1] ?? "", "base64"))]],
    ["a key of a type that it does not have", ["--host-key", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQM="]],
    ["a check line", ["--expect", "0000-0000-0000-0000-0000-0000 no-tpm"]],
  ])("by %s is left before any authentication, and nothing is written", async (_, expected) => {
    const { logged, result } = await during(() => add(...expected, "--site", siteFile(), "--name", "pi-2"));
    expect(result.code).toBe(5);
    expect(result.stderr).toMatch(/is not the expected one[^]*nothing was sent to the device/);
    expect(result.stdout).toBe("");
    expect(logged).toContain("Connection from");
    expect(logged).not.toMatch(authentication);
    expect(await readFile(siteFile(), "utf8")).toBe(siteText);
  });

  test("or another TPM, is not written", async () => {
    const expected = checkLine.replace("no-tpm", "5e5e-5e5e-5e5e-5e5e-5e5e-5e5e");
    const { code, stderr } = await add("--expect", expected, "--site", siteFile(), "--name", "pi-2");
    expect([code, stderr]).toEqual([5, expect.stringMatching(/the TPM is not the one of the check line/)]);
    expect(await readFile(siteFile(), "utf8")).toBe(siteText);
  });
});

describe("without anything expected", () => {
  test("and without a terminal, no connection is made at all", async () => {
    const { logged, result } = await during(() => add());
    expect(result.code).toBe(4);
    expect(result.stderr).toMatch(/no terminal for a person to compare/);
    expect(logged).toBe("");
  });

  test.each([
    ["the check line", () => `${checkLine}\r`],
    ["yes", () => "yes\r"],
  ])("a person who types %s lets it be read", async (_, answer) => {
    const { code, shown } = await addAtTerminal(answer());
    expect(shown).toMatch(/fingerprint +SHA256:/);
    expect(shown).toMatch(/- name: pi-new/);
    expect(code).toBe(0);
  });

  test.each([
    ["no", "no\r", 4, /was not compared/],
    ["another check line", "0000-0000-0000-0000-0000-0000\r", 5, /not the expected one/],
    ["Ctrl-C", "\u0003", 130, /interrupted: nothing was written/],
  ])("a person who types %s ends it before any authentication", async (_, answer, status, says) => {
    const { logged, result } = await during(() => addAtTerminal(answer));
    expect(result.code).toBe(status);
    expect(result.shown).toMatch(says);
    expect(logged).toContain("Connection from");
    expect(logged).not.toMatch(authentication);
  });
});

describe("a device that can't be read", () => {
  afterEach(() => node.must("mv -f /root/edge.sudoers /etc/sudoers.d/edge 2>/dev/null || true"));

  test("since sudo asks for a password is told, with the mend; nothing is written", async () => {
    await node.must("mv /etc/sudoers.d/edge /root/edge.sudoers");
    const { code, stderr } = await add("--expect", checkLine, "--site", siteFile(), "--name", "pi-2");
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/pi-2: sudo .*put 'edge ALL=\(root\) NOPASSWD: \/bin\/sh'/),
    ]);
    expect(await readFile(siteFile(), "utf8")).toBe(siteText);
  });

  test("since the key is not let in is told for whom", async () => {
    const { code, stderr } = await add("--expect", checkLine, "--user", "nobody-there");
    expect([code, stderr]).toEqual([1, expect.stringMatching(/login as 'nobody-there' was refused/)]);
  });
});

test.each([
  ["--site without --name", ["--site", "x.yaml"]],
  ["--json without something expected", ["--json"]],
  ["--dry-run without --site", ["--dry-run", "--expect", "x"]],
  ["a port that is none", ["--port", "70000"]],
  ["no address", []],
])("wrong usage is status 2: %s", async (_, words) => {
  const { code, stderr } = await edgeseal(
    "node",
    "add",
    ...(words.length === 0 ? [] : ["192.0.2.1"]),
    ...words,
  );
  expect([code, stderr]).toEqual([2, expect.stringMatching(/^error: /)]);
});
