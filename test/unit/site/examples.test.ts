import { sign } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { checkSite } from "../../../cli/site-check.ts";
import { blockKinds } from "../../../components/site-file/schema.ts";
import { readSite } from "../../../components/site-file/read.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { verifiedBoot } from "../../../provider/resources/verified-boot.ts";
import { modelStatement, signStatement } from "../../../provider/trust/model-statement.ts";
import { goodStates } from "../policies/cases.ts";
import { keyPair } from "../resources/model-example.ts";
import { noRoute } from "../resources/firewall-example.ts";
import { testKey } from "../trust/keys.ts";
import { faults, hostKey } from "./site-text.ts";

/* What the documents tell people to type works, and leads somewhere. */

/** A Pi 5 that nobody has provisioned with a key. */
const asFromTheShop = {
  ...goodStates.boot,
  signedBits: "0x0",
  signedBootEnabled: "no",
  otpKeyLocked: "no",
} as const;

const checkout = fileURLToPath(new URL("../../../", import.meta.url));
const markdownBelow = (folder: string): string[] =>
  readdirSync(join(checkout, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".md"))
    .map((entry) => relative(checkout, join(entry.parentPath, entry.name)));
const documents = ["README.md", "CONTRIBUTING.md", ...markdownBelow("docs")];

const read = (name: string): string => readFileSync(join(checkout, name), "utf8");
const yamlIn = (text: string): string[] =>
  [...text.matchAll(/^```yaml\n([^]*?)^```$/gm)].map(([, yaml = ""]) => yaml);
const indented = (text: string, spaces: number): string => text.replaceAll(/^(?=.)/gm, " ".repeat(spaces));

/** Anchors as GitHub makes them of headings. */
const anchorsOf = (text: string): string[] =>
  text
    .replaceAll(/^```[^]*?^```$/gm, "")
    .split("\n")
    .filter((line) => /^#+ /.test(line))
    .map((line) =>
      line
        .replace(/^#+ /, "")
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    );

describe.each(documents)("%s", (name) => {
  const text = read(name);
  const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = ""]) => target)
    .filter((target) => !/^[a-z]+:/.test(target));

  test("has no link that leads nowhere", () => {
    const broken = links.filter((link) => {
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? name : join(dirname(name), path);
      if (!existsSync(join(checkout, target))) return true;
      return anchor !== undefined && !anchorsOf(read(target)).includes(anchor);
    });
    expect(broken).toEqual([]);
  });
});

/** The keys of a site, in files of their own. */
function trustIn(folder: string): string {
  for (const purpose of ["policy", "recovery"] as const)
    writeFileSync(join(folder, `${purpose}.pub.pem`), testKey(purpose).publicKeyPem);
  return `trust: { policyKey: ${folder}/policy.pub.pem, recoveryKey: ${folder}/recovery.pub.pem }\n`;
}

describe.each(documents.filter((name) => name.startsWith("docs/resources/")))("%s", (name) => {
  let folder: string;
  beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "edgeseal-site-"))));
  afterEach(() => rmSync(folder, { recursive: true }));

  test("shows a block as a node of a site file takes it", async () => {
    const [block = ""] = yamlIn(read(name));
    expect(Object.keys(blockKinds)).toContain(block.split(":")[0]);
    const served = block.startsWith("inference:") ? await servedIn(folder, block) : block;
    expect(faults(siteWith(folder, served), join(folder, "site.yaml"))).toEqual([]);
  });
});

describe("docs/site-file.md", () => {
  let folder: string;
  beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "edgeseal-site-"))));
  afterEach(() => rmSync(folder, { recursive: true }));

  test("shows whole what a node serves, and it needs no waiver but those of what else there is", async () => {
    const blocks = yamlIn(read("docs/site-file.md")).find((text) => text.includes("inference:")) ?? "";
    const site = siteWith(folder, await servedIn(folder, blocks));
    const file = join(folder, "site.yaml");
    expect(faults(site, file)).toEqual([]);
    writeFileSync(file, site);
    const { findings } = checkSite(file, new Date("2026-12-01"));
    const failing = findings.filter(({ outcome }) => outcome === "violation").map(({ control }) => control);
    expect(failing).toEqual(["1.measured-boot", "1.tpm", "2.sealed-volumes"]);
  });
});

/** A site of one node with a block, and what that block takes besides. */
function siteWith(folder: string, block: string): string {
  const rest = block.startsWith("firewall") ? "" : "    firewall: { management: [192.0.2.0/24] }\n";
  return `site: test\n${/^(volumes|tpm):/m.test(block) ? trustIn(folder) : ""}nodes:\n  - name: pi-1\n    address: 192.0.2.1\n    hostKey: ${hostKey}\n${rest}${indented(block, 4)}`;
}

/** A block that serves a model, with a key whose private half is here, its statement, and the volume that it takes. */
async function servedIn(folder: string, block: string): Promise<string> {
  const key = keyPair();
  const model = {
    name: "gemma-3-270m-q4_k_m",
    sha256: /digest: sha256:([0-9a-f]{64})/.exec(block)?.[1] ?? "",
    bytes: 253_113_024,
    origin: "PyPI",
    licence: "Gemma Terms of Use",
  };
  const signer = (message: Uint8Array) => Promise.resolve(sign("sha256", message, key.privateKey));
  const signing = { publicKey: key.publicKey, privateKey: { name: "test", sign: signer } };
  const path = join(folder, /statement: (\S+)/.exec(block)?.[1] ?? "");
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, await signStatement(signing, modelStatement(model)));
  const withKey = block.replaceAll(
    /^( *)-----BEGIN PUBLIC KEY-----[^]*?-----END PUBLIC KEY-----\n/gm,
    (_, indent: string) => indented(key.pem, indent.length),
  );
  return `volumes:\n  models: { device: /dev/disk/by-id/nvme-a, mountPoint: /srv/models }\n${withKey}`;
}

describe("a first site of one's own", () => {
  const example = read("stacks/example.yaml");
  const waivers = example.slice(example.indexOf("\nwaivers:"));
  const [head = ""] = yamlIn(read("README.md"));
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "edgeseal-first-"));
  });
  afterEach(() => {
    rmSync(folder, { recursive: true });
  });

  describe.each([
    ["as README.md puts it together", `${head}${waivers}`.replace("ssh-ed25519 AAAA...", hostKey)],
    ["as stacks/example.yaml has it", example],
  ])("%s", (_, text) => {
    const file = () => {
      const path = join(folder, "office.yaml");
      writeFileSync(path, text);
      return path;
    };

    test("is free of faults and passes the gate", () => {
      const { lines, passes } = checkSite(file(), new Date("2026-12-01"));
      expect(lines.join("\n")).toContain("the checklist is met, waivers counted in");
      expect(passes).toBe(true);
    });

    test("loses nothing else with what is said of a board's boot, once it is provisioned", () => {
      const provisioned = text
        .replace(/^( *#.*\n)* {2}boot:\n.*\n/m, "")
        .replace(/^ *# For `boot.*\n.*1\.verified-boot.*\n/m, "");
      expect(provisioned).not.toMatch(/1\.verified-boot|require/);
      writeFileSync(join(folder, "office.yaml"), provisioned);
      expect(checkSite(join(folder, "office.yaml"), new Date("2026-12-01")).passes).toBe(true);
    });

    test("asks nothing of a board that it can't have: its signed boot is only observed", () => {
      const observed = { outcome: "present", state: asFromTheShop } as const;
      const boards = readSite(file()).nodes.flatMap(({ blocks }) => blocks.boot ?? []);
      expect(boards.length).toBeGreaterThan(0);
      for (const inputs of boards) expect(verifiedBoot.plan(inputs, observed, noRoute)).toEqual([]);
      // The control: the default refuses that very board.
      expect(() => verifiedBoot.plan({ require: "signed-boot-locked" }, observed, noRoute)).toThrow(
        PlanRefused,
      );
    });
  });
});
