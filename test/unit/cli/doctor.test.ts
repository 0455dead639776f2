import type * as Fs from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { Command } from "commander";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { register } from "../../../cli/doctor.ts";
import type { Finding } from "../../../tools/doctor/finding.ts";
import { examineMachine } from "../../../tools/doctor/machine.ts";

const GIB = 1024 ** 3;
const machine = vi.hoisted(() => ({ findings: [] as readonly object[], memory: 0, disk: 0 }));

vi.mock("../../../tools/doctor/pieces.ts", () => ({ examine: () => Promise.resolve(machine.findings) }));
vi.mock("node:fs", async (original) => {
  const real = await original<typeof Fs>();
  return {
    ...real,
    mkdirSync: () => undefined,
    readFileSync: (...given: Parameters<typeof Fs.readFileSync>) =>
      given[0] === "/proc/meminfo"
        ? `MemTotal: 1 kB\nMemAvailable: ${machine.memory / 1024} kB\n`
        : real.readFileSync(...given),
    statfsSync: () => ({ bavail: machine.disk / 4096, bsize: 4096 }),
  };
});

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

describe("./edgeseal doctor", () => {
  let said: string[];
  const former = process.exitCode;
  beforeEach(() => {
    said = [];
    vi.spyOn(console, "log").mockImplementation((line: string) => {
      said.push(...stripVTControlCharacters(line).split("\n"));
    });
  });
  afterEach(() => {
    process.exitCode = former;
  });

  async function doctor(...findings: readonly Finding[]): Promise<void> {
    machine.findings = findings;
    const program = new Command();
    register(program);
    await program.parseAsync(["doctor"], { from: "user" });
  }

  const node: Finding = { piece: "Node", state: "present", found: "v24.1.0" };
  const kvm: Finding = { piece: "KVM", state: "note", found: "none", mend: "boots are faster with it" };

  test("prints the mend below what is missing, and ends with 1", async () => {
    await doctor(
      node,
      { piece: "swtpm", state: "missing", mend: "tools/install-debian-packages swtpm" },
      kvm,
    );
    expect(said).toEqual([
      " ✓ Node (v24.1.0)",
      " ✗ swtpm",
      "     tools/install-debian-packages swtpm",
      " - KVM (none)",
      "     boots are faster with it",
      "",
      "1 missing. './edgeseal demo' and './edgeseal test' set up whatever can be set up.",
    ]);
    expect(process.exitCode).toBe(1);
  });

  test("ends with 0 when nothing is missing, whatever it notes", async () => {
    await doctor(node, kvm);
    expect(said.at(-1)).toBe("Nothing is missing.");
    expect(process.exitCode ?? 0).toBe(0);
  });
});

describe("of the machine", () => {
  const found = (piece: string) => examineMachine("/the/cache").find((one) => one.piece.startsWith(piece));

  test("too little memory is missing, with what is needed", () => {
    machine.memory = 3 * GIB;
    expect(found("memory")).toEqual({ piece: "memory", state: "present", found: "3.0 GiB free" });
    machine.memory = 3 * GIB - 1024;
    expect(found("memory")).toMatchObject({
      state: "missing",
      mend: "3 GiB are needed: end what else uses memory",
    });
  });

  test("so is too little room for the cache", () => {
    machine.disk = 8 * GIB;
    expect(found("disk")).toEqual({ piece: "disk (/the/cache)", state: "present", found: "8.0 GiB free" });
    machine.disk = 2.5 * GIB;
    expect(found("disk")).toEqual({
      piece: "disk (/the/cache)",
      state: "missing",
      found: "2.5 GiB free",
      mend: "8 GiB are needed: free some, or set EDGESEAL_CACHE to a place with more",
    });
  });

  test("rights: root, else sudo, else a note of who can help", () => {
    const uid = vi.spyOn(process, "getuid").mockReturnValue(0);
    expect(found("rights")).toMatchObject({ state: "present", found: "root" });
    uid.mockReturnValue(1000);
    vi.stubEnv("PATH", "/nowhere");
    expect(found("rights")).toMatchObject({
      state: "note",
      mend: expect.stringContaining("have an administrator install") as string,
    });
  });
});
