import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { UserError } from "../../../cli/errors.ts";
import { withLock } from "../../../testbed/cache-lock.ts";

const source = join(import.meta.dirname, "../../../testbed/cache-lock.ts");
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "edgeseal-lock-"));
});

afterAll(() => rm(folder, { recursive: true }));

test("the second waits until the first is done", async () => {
  const path = join(folder, "two");
  const order: string[] = [];
  const held = Promise.withResolvers<undefined>();
  const first = withLock(path, async () => {
    order.push("first in");
    await held.promise;
    order.push("first out");
  });
  const waits = Promise.withResolvers<undefined>();
  const second = withLock(
    path,
    () => {
      order.push("second in");
      return Promise.resolve();
    },
    {
      onWait: () => {
        waits.resolve(undefined);
      },
    },
  );
  await waits.promise;
  held.resolve(undefined);
  await Promise.all([first, second]);
  expect(order).toEqual(["first in", "first out", "second in"]);
});

test("a holder that was killed holds nothing", async () => {
  const path = join(folder, "killed");
  const holder = spawn(
    process.execPath,
    [
      "--input-type=module",
      "--eval",
      `
        const { withLock } = await import(${JSON.stringify(source)});
        await withLock(${JSON.stringify(path)}, () => new Promise(() => {
          process.stdout.write("held");
          setInterval(() => {}, 1000);
        }));
      `,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  await once(holder.stdout, "data");
  holder.kill("SIGKILL");
  expect(await withLock(path, () => Promise.resolve("mine"))).toBe("mine");
});

test("a failure in it frees the lock and comes through", async () => {
  const path = join(folder, "failed");
  await expect(withLock(path, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect(await withLock(path, () => Promise.resolve("mine"))).toBe("mine");
});

test("waiting ends when it is aborted", async () => {
  const path = join(folder, "aborted");
  await withLock(path, async () => {
    const second = withLock(path, () => Promise.resolve(), { signal: AbortSignal.timeout(100) });
    await expect(second).rejects.toThrow(/timeout/i);
  });
});

test("a lock that can't be made says where and why, with the mend", async () => {
  const path = join(folder, "no/such/folder");
  const refused = await withLock(path, () => Promise.resolve()).catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(UserError);
  expect(refused).toMatchObject({
    message: `cannot lock ${path}: flock: cannot open lock file ${path}: No such file or directory`,
    hint: expect.stringContaining(`${join(folder, "no/such")} has to be there and yours`) as string,
  });
});

test("a flock that ends before anything could be written to it is a failure that is reported", async () => {
  const bin = join(folder, "bin");
  await mkdir(bin);
  await writeFile(join(bin, "flock"), `#!/bin/sh\nexec 0<&-\necho "flock: not today" >&2\nexit 66\n`, {
    mode: 0o755,
  });
  vi.stubEnv("PATH", `${bin}:${String(process.env.PATH)}`);
  try {
    const path = join(folder, "refused");
    await expect(withLock(path, () => Promise.resolve("mine"))).rejects.toThrow(
      `cannot lock ${path}: flock: not today`,
    );
  } finally {
    vi.unstubAllEnvs();
  }
});
