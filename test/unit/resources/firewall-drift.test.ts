import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { diffState, type Difference } from "../../../provider/diff.ts";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import { firewall } from "../../../provider/resources/firewall.ts";
import { example, healthyParts, noRoute, untouchedParts } from "./firewall-example.ts";

interface Listing {
  nftables: Record<string, Record<string, unknown>>[];
}

const versions = ["1.0.6", "1.1.3"];
const recorded = (version: string): Listing =>
  JSON.parse(
    readFileSync(new URL(`firewall-listings/nft-${version}.json`, import.meta.url), "utf8"),
  ) as Listing;

type Parts = ReturnType<typeof healthyParts>;

/** Differences of a node whose listing and other answers were tampered with; the law about plans is checked along. */
function drift(version: string, tamper: (listing: Listing, parts: Parts) => void): Difference[] {
  const listing = recorded(version);
  const parts = healthyParts(example, "");
  tamper(listing, parts);
  const table = parts.table?.stdout === "" ? JSON.stringify(listing) : (parts.table?.stdout ?? "");
  const observed = firewall
    .observe(example)
    .parse({ ...parts, table: { code: 0, stdout: table, stderr: "" } });
  if (observed.outcome === "absent") throw new Error("the table was there");
  const differences = diffState(firewall.desired(example), observed.state);
  expect(firewall.plan(example, observed, noRoute).length === 0).toBe(differences.length === 0);
  return differences;
}

const ruleAt = (listing: Listing, name: string): number =>
  listing.nftables.findIndex((object) => object.rule?.comment === name);
const ruleNamed = (listing: Listing, name: string): Record<string, unknown> => {
  const rule = listing.nftables[ruleAt(listing, name)]?.rule;
  if (rule === undefined) throw new Error(`no rule '${name}' was recorded`);
  return rule;
};
const chainNamed = (listing: Listing, name: string): Record<string, unknown> => {
  const chain = listing.nftables.find((object) => object.chain?.name === name)?.chain;
  if (chain === undefined) throw new Error(`no chain '${name}' was recorded`);
  return chain;
};
const foreignRule = {
  family: "inet",
  table: "edgeseal",
  chain: "output",
  handle: 999,
  expr: [{ accept: null }],
};
const names = Object.keys(firewall.desired(example).rules ?? {});

describe.each(versions)("listed by nft %s", (version) => {
  test("the rules as loaded are no difference", () => {
    expect(drift(version, () => undefined)).toEqual([]);
  });

  test("counters and handles are no difference", () => {
    const differences = drift(version, (listing) => {
      for (const { rule } of listing.nftables) {
        if (rule === undefined) continue;
        rule.handle = Number(rule.handle) + 1000;
        for (const expression of rule.expr as Record<string, unknown>[])
          if ("counter" in expression) expression.counter = { packets: 7, bytes: 4711 };
      }
    });
    expect(differences).toEqual([]);
  });

  test.each(names)("without %s there is exactly that difference", (name) => {
    const differences = drift(version, (listing) => listing.nftables.splice(ruleAt(listing, name), 1));
    expect(differences.map(({ path, kind }) => ({ path, kind }))).toEqual([
      { path: `rules["${name}"]`, kind: "add" },
    ]);
  });

  test.each(["first", "last"])("a rule of somebody else, put in %s, is exactly one difference", (where) => {
    const differences = drift(version, (listing) =>
      listing.nftables.splice(
        where === "first" ? ruleAt(listing, "base:input-loopback") : listing.nftables.length,
        0,
        { rule: foreignRule },
      ),
    );
    expect(differences).toEqual([
      {
        path: 'rules["unmanaged: output accept"]',
        kind: "delete",
        observed: "output accept",
        desired: undefined,
      },
    ]);
  });

  test("a rule of somebody else under a name of ours does not pass for ours", () => {
    const differences = drift(version, (listing) =>
      listing.nftables.splice(ruleAt(listing, "base:output-loopback"), 0, {
        rule: { ...foreignRule, comment: "base:output-loopback" },
      }),
    );
    expect(differences.map(({ path, kind }) => [path, kind])).toEqual([
      ['rules["unmanaged: output accept"]', "delete"],
    ]);
  });

  test("a rejecting rule moved to the front is one difference, of order", () => {
    const differences = drift(version, (listing) => {
      const [reject] = listing.nftables.splice(ruleAt(listing, "base:output-reject"), 1);
      if (reject !== undefined) listing.nftables.splice(ruleAt(listing, "base:output-loopback"), 0, reject);
    });
    expect(differences.map(({ path }) => path)).toEqual(["order"]);
    expect(differences[0]?.observed).toContain("output: allow:api stands after base:output-reject");
  });

  test("two allowing rules that changed places mean the same", () => {
    const differences = drift(version, (listing) => {
      const [api] = listing.nftables.splice(ruleAt(listing, "allow:api"), 1);
      if (api !== undefined) listing.nftables.splice(ruleAt(listing, "dns:ipv4"), 0, api);
    });
    expect(differences).toEqual([]);
  });

  test("a widened match is one difference that tells both meanings", () => {
    const differences = drift(version, (listing) => {
      (ruleNamed(listing, "allow:api").expr as unknown[]).splice(1, 1);
    });
    expect(differences).toEqual([
      {
        path: 'rules["allow:api"]',
        kind: "update",
        observed: "output accept ip daddr 203.0.113.5",
        desired: "output accept ip daddr 203.0.113.5 tcp dport 443",
      },
    ]);
  });

  test("a statement that we never write is told as it is", () => {
    const differences = drift(version, (listing) => {
      (ruleNamed(listing, "allow:api").expr as unknown[]).unshift({
        mangle: { key: { meta: { key: "mark" } }, value: 1 },
      });
    });
    expect(differences.map(({ path }) => path)).toEqual(['rules["allow:api"]']);
    expect(differences[0]?.observed).toContain("mangle");
  });

  test.each([
    ["a policy turned to accept", "input", { policy: "accept" }, "inputPolicy"],
    ["a chain hung later", "output", { prio: 300 }, "chains.output"],
  ])("%s is one difference", (_, chain, change, path) => {
    const differences = drift(version, (listing) => Object.assign(chainNamed(listing, chain), change));
    expect(differences.map((each) => each.path)).toEqual([path]);
  });

  test("a table turned off is not taken for rules in force", () => {
    const differences = drift(version, (listing) => {
      const table = listing.nftables.find((object) => "table" in object)?.table;
      // What each version prints for `flags dormant`: 1.0.6 prints garbage.
      if (table !== undefined) table.flags = version === "1.0.6" ? "Lester Gooch #5" : "dormant";
    });
    expect(differences.map(({ path, observed }) => [path, observed])).toEqual([["loaded", "dormant"]]);
  });

  test("a set of somebody else in our table is one difference", () => {
    const differences = drift(version, (listing) =>
      listing.nftables.push({
        set: { family: "inet", table: "edgeseal", name: "hole", type: "ipv4_addr", handle: 9 },
      }),
    );
    expect(differences.map(({ path }) => path)).toEqual(['rules["unmanaged: set hole"]']);
  });
});

describe("around the rules", () => {
  const newest = "1.1.3";
  const replace = (part: string, from: string | RegExp, to: string) => (_: Listing, parts: Parts) => {
    const answer = parts[part];
    if (answer === undefined) throw new Error(`no part '${part}'`);
    const stdout = answer.stdout.replace(from, to);
    if (stdout === answer.stdout) throw new Error(`'${part}' does not contain what is to be replaced`);
    parts[part] = { ...answer, stdout };
  };
  const ruleset = 'files["/etc/edgeseal/firewall.nft"]';

  test.each([
    ["an edited file", replace("files", /sha256:\w+/, "sha256:0"), ruleset],
    ["a file that others may read", replace("files", "600", "644"), ruleset],
    [
      "a file turned into a link",
      replace("files", /600 root:root sha256:\w+/, "not a regular file"),
      ruleset,
    ],
    ["a removed file", replace("files", /^.*firewall\.nft.*\n/, ""), ruleset],
    [
      "a disabled unit",
      replace("bootUnit", "UnitFileState=enabled", "UnitFileState=disabled"),
      "bootUnit.state",
    ],
    [
      "a masked unit",
      replace(
        "bootUnit",
        "LoadState=loaded\nUnitFileState=enabled",
        "LoadState=masked\nUnitFileState=masked-runtime",
      ),
      "bootUnit.state",
    ],
    [
      "a unit that did not run",
      replace("bootUnit", "ActiveState=active", "ActiveState=failed"),
      "bootUnit.active",
    ],
    [
      "a unit ordered after the network",
      replace("bootUnit", "Before=network-pre.target ", "Before="),
      "bootUnit.beforeNetwork",
    ],
    [
      "a network service that starts without it",
      replace("bootUnit", /link=.*networkd.*\n/, ""),
      "bootUnit.linkedFrom",
    ],
    [
      "an override",
      replace(
        "bootUnit",
        "DropInPaths=",
        "DropInPaths=/etc/systemd/system/edgeseal-firewall.service.d/x.conf",
      ),
      "bootUnit.overrides",
    ],
    [
      "an override for all services",
      replace("bootUnit", "DropInPaths=", "DropInPaths=/etc/systemd/system/service.d/x.conf"),
      "bootUnit.overrides",
    ],
    [
      "an override that systemd has not read",
      replace("bootUnit", /$/, "override=/etc/systemd/system/edgeseal-.service.d/x.conf\n"),
      "bootUnit.overrides",
    ],
    [
      "an nftables.service that systemd has not read",
      replace("nftablesService", "NeedDaemonReload=no", "NeedDaemonReload=yes"),
      "nftablesService",
    ],
    [
      "an nftables.service that flushes afterwards",
      replace("nftablesService", /$/, "ExecStopPost={ argv[]=/usr/sbin/nft flush ruleset ; }\n"),
      "nftablesService",
    ],
    [
      "a flushing nftables.service",
      replace("nftablesService", /ExecStop=.*/, "ExecStop={ argv[]=/usr/sbin/nft flush ruleset ; }"),
      "nftablesService",
    ],
  ])("%s is exactly one difference", (_, tamper, path) => {
    expect(drift(newest, tamper).map((each) => each.path)).toEqual([path]);
  });

  test("tables of others are reported and not compared", () => {
    const observed = firewall.observe(example).parse(healthyParts(example, JSON.stringify(recorded(newest))));
    expect(observed).toMatchObject({ state: { foreignTables: ["ip foreign"] } });
    expect(firewall.desired(example)).not.toHaveProperty("foreignTables");
  });

  test("a missing table shows as such, not as a difference for each rule", () => {
    const differences = drift(newest, (_, parts) => {
      parts.table = { code: 0, stdout: "\n", stderr: "" };
    });
    expect(differences.map(({ path }) => path)).toEqual([
      "loaded",
      "inputPolicy",
      "outputPolicy",
      "forwardPolicy",
      "chains",
      "rules",
    ]);
  });

  test("an untouched node has no firewall of ours", () => {
    expect(firewall.observe(example).parse(untouchedParts)).toEqual({ outcome: "absent" });
  });

  test("a node without nft whose kernel may hold a table is not untouched: it is unknown, and nft is installed to look", () => {
    const observed = firewall
      .observe(example)
      .parse({ ...untouchedParts, tables: { code: 0, stdout: "missing\n", stderr: "" } });
    expect(observed).toMatchObject({ outcome: "present", state: { loaded: "unknown", files: {} } });
    expect(firewall.plan(example, observed, noRoute)[0]).toMatchObject({
      kind: "package",
      package: "nftables",
      installed: true,
    });
    expect(firewall.revert(example, observed).length).toBeGreaterThan(0);
  });

  test.each([
    ["no symbol of nf_tables", "0 T nf_hook_slow\n0 t nf_ct_get\t[nf_conntrack]\n", "missing none\n"],
    ["it as a module", "0 T nf_hook_slow\n0 t nft_do_chain\t[nf_tables]\n", "missing\n"],
    ["it built in", "0 t nf_tables_newtable\n0 T nf_hook_slow\n", "missing\n"],
    ["no symbols to show", "", "missing\n"],
    ["no list of symbols", undefined, "missing\n"],
  ])("a kernel with %s, asked on a node without nft", (_, symbols, answer) => {
    const folder = mkdtempSync(join(tmpdir(), "edgeseal-kallsyms-"));
    try {
      const awk = spawnSync("sh", ["-c", "command -v awk"], { encoding: "utf8" }).stdout.trim();
      symlinkSync(awk, join(folder, "awk"));
      if (symbols !== undefined) writeFileSync(join(folder, "kallsyms"), symbols);
      const fragment = firewall.observe(example).parts["tables"] ?? "";
      const script = fragment.replaceAll("/proc/kallsyms", join(folder, "kallsyms"));
      const { stdout, status } = spawnSync("/bin/sh", ["-c", script], {
        env: { PATH: folder },
        encoding: "utf8",
      });
      expect({ stdout, status }).toEqual({ stdout: answer, status: 0 });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("rules left in the kernel without any file are not absent", () => {
    const parts = {
      ...untouchedParts,
      tables: { code: 0, stdout: "table inet edgeseal\n", stderr: "" },
      table: { code: 0, stdout: JSON.stringify(recorded(newest)), stderr: "" },
    };
    expect(firewall.observe(example).parse(parts)).toMatchObject({
      outcome: "present",
      state: { loaded: "ruleset" },
    });
  });

  test.each(["tables", "table", "files", "bootUnit", "nftablesService"])(
    "a failing '%s' is unknown, never absent",
    (part) => {
      const parts = { ...untouchedParts, [part]: { code: 1, stdout: "", stderr: "Operation not permitted" } };
      expect(() => firewall.observe(example).parse(parts)).toThrow(UnknownObservation);
    },
  );

  test("a listing that is cut off is unknown", () => {
    const parts = healthyParts(example, '{"nftables": [{"metainfo"');
    expect(() => firewall.observe(example).parse(parts)).toThrow(/is not JSON/);
  });
});
