import { expect, test } from "vitest";
import { badSite } from "../../../../cli/demo/main-job/bad-site.ts";
import type { DemoContext } from "../../../../cli/demo/step.ts";
import { checklist } from "../../../../policies/checklist.ts";
import type { Finding } from "../../../../policies/evaluate.ts";
import { findingTexts, refusalText } from "../../../../policies/message.ts";

function finding(control: string, node: string, evidence: string): Finding {
  const found = checklist.find(({ id }) => id === control);
  if (found === undefined) throw new Error(`no control ${control}`);
  const { id, point, title, mend } = found;
  return { control: id, point, title, mend, node, evidence, outcome: "violation", underlying: "violation" };
}

const findings = [
  finding("3.swap-off", "pi-demo", 'swap.mode is "keep"'),
  finding("5.egress-allowlist", "pi-demo", 'firewall.egress is "open"'),
  finding("1.verified-boot", "pi-second", "boot.require is not declared"),
  finding("5.default-deny", "pi-second", "the node has no `firewall` block"),
  finding("5.egress-allowlist", "pi-second", "the node has no `firewall` block"),
];
/** As the engine prints them. */
const gate = refusalText('site "demo"', findings).replaceAll(/^/gm, "      ");
const pack = findings
  .map((each) => `        - [mandatory]  ${each.control}\n          ${findingTexts([each]).join("")}`)
  .join("\n");
const own = "Connection from 10.0.2.2 port 40000 on 10.0.2.15 port 22\nAccepted publickey for edge\n";

interface Seen {
  readonly up?: string;
  readonly preview?: string;
  readonly code?: number;
  /** sshd's log, before and after. */
  readonly logs?: readonly [string, string];
  readonly journalctl?: number;
}

async function run({
  up = gate,
  preview = `${gate}\n${pack}`,
  code = 1,
  logs = [own, own],
  journalctl = 0,
}: Seen) {
  const lines: string[] = [];
  const log = [...logs];
  const context = {
    checkout: new URL("../../../..", import.meta.url).pathname,
    pi: {
      ssh: { host: "127.0.0.1", port: 2222, user: "edge", identityFile: "/key", hostKey: "ssh-ed25519 AAAA" },
      exec: () => Promise.resolve({ code: journalctl, stdout: log.shift() ?? "", stderr: "" }),
    },
    pulumi: {
      site: () => Promise.resolve(""),
      run: ([command]: readonly string[]) =>
        Promise.resolve({ code, stdout: command === "up" ? up : preview, stderr: "", milliseconds: 1 }),
    },
    signal: new AbortController().signal,
    say: (line: string) => void lines.push(line),
  };
  await badSite.run(context as unknown as DemoContext);
  return lines.map((line) => line.trim());
}

test("holds when both refuse, name every violation with its mend, and no connection was made", async () => {
  const lines = await run({});
  expect(lines).toContain("ok  it names 5.default-deny on pi-second, with the mend");
  expect(lines).toContain("ok  the pack, by itself, holds 3.swap-off against pi-demo, with the mend");
  expect(lines.at(-1)).toBe("ok  sshd on the node logged no connection since");
});

test("a run that succeeds ends the step", async () => {
  await expect(run({ code: 0 })).rejects.toThrow("(the Site's own gate) fails");
});

test.each(findings.map(({ control, node }) => ({ control, node })))(
  "$control on $node has to be named by the gate, with its mend",
  async ({ control, node }) => {
    const others = findings.filter((each) => each.control !== control || each.node !== node);
    const claim = `it names ${control} on ${node}, with the mend`;
    await expect(run({ up: refusalText('site "demo"', others) })).rejects.toThrow(claim);
    const mends = findings.map((each) => (others.includes(each) ? each : { ...each, mend: "think again" }));
    await expect(run({ up: refusalText('site "demo"', mends) })).rejects.toThrow(claim);
  },
);

test("what the gate said is not taken for what the pack said", async () => {
  await expect(run({ preview: gate })).rejects.toThrow(
    "the pack, by itself, holds 3.swap-off against pi-demo",
  );
});

test("the pack has to give the mend, and to be mandatory", async () => {
  for (const weaker of [pack.replaceAll("; mend: ", "; "), pack.replaceAll("[mandatory]", "[advisory]")]) {
    await expect(run({ preview: `${gate}\n${weaker}` })).rejects.toThrow("the pack, by itself");
  }
});

test("a connection in between ends the step", async () => {
  await expect(run({ logs: [own, own + own] })).rejects.toThrow("found: connections since: 1");
});

test("a log without any connection proves nothing, and ends the step", async () => {
  await expect(run({ logs: ["", ""] })).rejects.toThrow("sshd's log on the node shows connections");
});

test("a log that can't be read ends the step", async () => {
  await expect(run({ journalctl: 1 })).rejects.toThrow("on the node: exit status 1 of: journalctl");
});
