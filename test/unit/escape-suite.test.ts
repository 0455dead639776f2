import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { getSystemErrorName } from "node:util";
import { expect, test } from "vitest";
import {
  alone,
  attemptRows,
  attempts,
  combinations,
  expectedOf,
  layerRows,
  layers,
  wentThrough,
  type Layer,
} from "../e2e/escape/attempts.ts";
import { observedOf, unitOf } from "../e2e/escape/service.ts";

/* The escape suite's table, its program and its page say the same; that it is true is tried on the virtual Pi (test/e2e/inference-escape.test.ts). */

const read = (path: string): string => readFileSync(new URL(path, import.meta.url), "utf8");
const words = (line: string): string => line.replaceAll(/ +/g, " ").trim();

test("docs/escape-suite.md shows each layer and each attempt, and no other", () => {
  const rows = read("../../docs/escape-suite.md")
    .split("\n")
    .filter((line) => /^\| (?!-|layer |attempt )/.test(line))
    .map(words);
  expect(rows).toEqual([...layerRows(), ...attemptRows()].map(words));
});

test("the probe knows the attempts, in the same order", () => {
  const named = [...read("../e2e/escape/probe.c").matchAll(/^ {2}\{"([a-z-]+)", try_\w+\},$/gm)];
  expect(named.map(([, name]) => name)).toEqual(attempts.map(({ name }) => name));
});

/** An attempt of the probe's in a process of its own, which ends in one of these ways; `cc` makes a program of it that does nothing else. */
const inChild = `#define serve serve_requests
#include "probe.c"
#undef serve
static long through(long unused) { return 0; }
static long refused(long error) { return -error; }
static long killed(long signal) { return call(sys_kill, raw(39, 0, 0, 0, 0, 0, 0), signal); }
void serve(long *arguments) {
  const char *how = (char *)arguments[2];
  call(sys_exit_group, -in_child(*how == 't' ? through : *how == 'r' ? refused : killed, *how == 'r' ? 13 : 9));
}
`;
const compiles = process.arch === "x64" && spawnSync("cc", ["--version"]).status === 0;

test.skipIf(!compiles)("an attempt whose process is killed did not go through", () => {
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-in-child-"));
  try {
    const source = join(folder, "in-child.c");
    const program = join(folder, "in-child");
    writeFileSync(source, inChild);
    const flags = "-w -O0 -nostdlib -static -ffreestanding -fno-stack-protector -fno-pie -no-pie".split(" ");
    const probes = new URL("../e2e/escape", import.meta.url).pathname;
    const compiled = spawnSync("cc", [...flags, "-I", probes, "-o", program, source], { encoding: "utf8" });
    expect(compiled.stderr).toBe("");
    const errors = ["through", "refused", "killed"].map((how) => spawnSync(program, [how]).status);
    const [, , killed] = errors;
    expect(errors).toEqual([0, 13, 4]);
    const named = attempts.flatMap(({ stoppedBy }) => stoppedBy.map(({ error }) => error));
    expect(named).not.toContain(getSystemErrorName(-(killed ?? 0)));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("each attempt is stopped by something, by no layer twice, and by each that is in its row", () => {
  for (const attempt of attempts) {
    const stopping = attempt.stoppedBy.map(({ layer }) => layer);
    expect(stopping, attempt.name).not.toEqual([]);
    expect(new Set(stopping).size, attempt.name).toBe(stopping.length);
    expect(expectedOf(attempt, layers)).not.toBe(wentThrough);
    for (const layer of layers)
      expect(expectedOf(attempt, [layer]) !== wentThrough, `${attempt.name}, ${layer}`).toBe(
        stopping.includes(layer),
      );
    expect(expectedOf(attempt, [])).toBe(wentThrough);
  }
});

test("each layer is tried by itself, and each is taken away alone where it is all that stops an attempt", () => {
  expect(alone).toEqual(["seccomp", "appArmor", "limits"]);
  const tried = combinations.map(({ on }) => on.join(" "));
  for (const layer of layers) expect(tried).toContain(layer);
  for (const layer of alone) expect(tried).toContain(layers.filter((each) => each !== layer).join(" "));
  expect(new Set(tried).size).toBe(tried.length);
});

const supply = {
  image: `registry.example/edge/llama@sha256:${"a".repeat(64)}`,
  archive: "/archive",
  model: { digest: `sha256:${"b".repeat(64)}`, file: "", statement: "" },
};
const without = (away: Layer): string =>
  unitOf(
    supply,
    layers.filter((layer) => layer !== away),
  );

test.each<[Layer, RegExp]>([
  ["seccomp", /seccomp=unconfined/],
  ["rights", /--cap-add CAP_SYS_ADMIN/],
  ["container", /--network none .*--pid host .*\/:\/node:ro .*:\/models /],
  ["limits", /^MemoryMax=4096M$/m],
])("the unit without %s has what stands for that, and with every layer it has not", (away, sign) => {
  expect(without(away)).toMatch(sign);
  expect(unitOf(supply, layers)).not.toMatch(sign);
});

test.each<[Layer, RegExp]>([
  ["unit", /^(SystemCall|Restrict|MemoryDenyWriteExecute)/m],
  ["appArmor", /^AppArmorProfile=/m],
  ["rights", /^ExecCondition=/m],
  ["container", /noexec/],
])("the unit without %s has not what stands for it, and with every layer it has", (away, sign) => {
  expect(without(away)).not.toMatch(sign);
  expect(unitOf(supply, layers)).toMatch(sign);
});

test("what has to be read of the process differs with each layer but the unit's, whose filters are counted", () => {
  const all = observedOf(supply, layers);
  for (const away of layers.filter((layer) => layer !== "unit"))
    expect(
      observedOf(
        supply,
        layers.filter((layer) => layer !== away),
      ),
      away,
    ).not.toEqual(all);
});
