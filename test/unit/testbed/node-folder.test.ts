import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { UserError } from "../../../cli/errors.ts";
import {
  claimNodeFolder,
  describeNode,
  freePorts,
  nodesFolder,
  runningNode,
  runningNodes,
} from "../../../testbed/node-folder.ts";

const source = join(import.meta.dirname, "../../../testbed/node-folder.ts");
let cache: string;

beforeEach(async () => {
  cache = await mkdtemp(join(tmpdir(), "edgeseal-nodes-"));
  vi.stubEnv("EDGESEAL_CACHE", cache);
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(cache, { recursive: true });
});

/** Another process that claims a name and then waits. */
async function claimElsewhere(name: string) {
  const other = spawn(
    process.execPath,
    [
      "--input-type=module",
      "--eval",
      `
        const { claimNodeFolder } = await import(${JSON.stringify(source)});
        await claimNodeFolder(${JSON.stringify(name)});
        process.stdout.write("claimed");
        setInterval(() => {}, 1000);
      `,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  await once(other.stdout, "data");
  return other;
}

describe("a name", () => {
  test("can be had once", async () => {
    await claimNodeFolder("one");
    await expect(claimNodeFolder("one")).rejects.toThrow(UserError);
    await expect(claimNodeFolder("one")).rejects.toThrow(/already running/);
  });

  test("is made up when none is given, each time another", async () => {
    const [first, second] = await Promise.all([claimNodeFolder(undefined), claimNodeFolder(undefined)]);
    expect(first.name).not.toBe(second.name);
  });

  test.each(["", "Upper", "a b", "../up", "-dash", "x".repeat(33)])("%j is refused", async (name) => {
    await expect(claimNodeFolder(name)).rejects.toThrow(/is not a name/);
  });

  test("is refused where its sockets would not fit", async () => {
    vi.stubEnv("EDGESEAL_CACHE", join(cache, "x".repeat(100)));
    await expect(claimNodeFolder("one")).rejects.toThrow(/too long/);
  });
});

describe("a folder whose process is dead", () => {
  test("goes at the next start, and its name is free", async () => {
    const other = await claimElsewhere("one");
    await writeFile(join(nodesFolder(), "one", "disk"), "");
    await expect(claimNodeFolder("one")).rejects.toThrow(/already running/);
    other.kill("SIGKILL");
    await once(other, "close");

    const { folder } = await claimNodeFolder("one");
    expect(await readdir(folder)).toEqual(["owner.json"]);
  });

  test("goes too when another process has its number by now", async () => {
    const { folder } = await claimNodeFolder("one");
    const owner = JSON.parse(await readFile(join(folder, "owner.json"), "utf8")) as object;
    await writeFile(join(folder, "owner.json"), JSON.stringify({ ...owner, startTicks: "1" }));
    await claimNodeFolder("two");
    expect(await readdir(nodesFolder())).toEqual(["two"]);
  });
});

test("other processes see a node once it is described, as long as its process lives", async () => {
  const ssh = {
    host: "127.0.0.1",
    port: 22001,
    user: "edge",
    identityFile: "/k",
    hostKey: "ssh-ed25519 AAAA",
  };
  const { folder } = await claimNodeFolder("one");
  expect(await runningNode("one")).toBeUndefined();
  await describeNode(folder, { name: "one", ssh, imageHash: "abc" });
  expect(await runningNode("one")).toMatchObject({
    name: "one",
    ssh,
    imageHash: "abc",
    owner: { pid: process.pid },
  });
  expect(await readFile(join(folder, "known_hosts"), "utf8")).toBe("[127.0.0.1]:22001 ssh-ed25519 AAAA\n");
  expect((await runningNodes()).map(({ name }) => name)).toEqual(["one"]);

  await writeFile(join(folder, "owner.json"), JSON.stringify({ pid: process.pid, startTicks: "1" }));
  expect(await runningNodes()).toEqual([]);
});

test("nothing runs where nothing was ever started", async () => {
  await mkdir(cache, { recursive: true });
  expect(await runningNodes()).toEqual([]);
});

test("free ports are different, free, and not the kernel's own to give away", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  const ports = await freePorts(8);
  expect(new Set(ports).size).toBe(8);
  expect(ports).not.toContain((taken.address() as AddressInfo).port);
  const [low = 0] = (await readFile("/proc/sys/net/ipv4/ip_local_port_range", "utf8"))
    .trim()
    .split(/\s+/)
    .map(Number);
  expect(ports.every((port) => port >= 20_000 && port < Math.max(low, 21_000))).toBe(true);
  taken.close();
});
