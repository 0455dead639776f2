import { expect, test } from "vitest";
import { UserError } from "../../../../cli/errors.ts";
import { archivePaths } from "../../../../cli/image/lock.ts";
import { formatLock, lockFile, parseLock } from "../../../../cli/image/lock-file.ts";
import { architectures } from "../../../../cli/image/recipe.ts";
import { llamaServer } from "../../../../images/llama-server/recipe.ts";
import { readFileSync } from "node:fs";

const digest = "a".repeat(64);
const lock = {
  created: "2027-01-15T12:00:00Z",
  packages: [
    {
      name: "zlib1g",
      version: "1:1.3.dfsg+really1.3.2-4",
      sha256: digest,
      path: "pool/main/z/zlib/zlib1g_1.deb",
    },
    {
      name: "libstdc++6",
      version: "16.2.0-4",
      sha256: digest,
      path: "pool/main/g/gcc-16/libstdc%2b%2b6_16.deb",
    },
  ],
};

test("what is written is what is read, sorted", () => {
  expect(parseLock("lock", formatLock(lock))).toEqual({ ...lock, packages: [...lock.packages].reverse() });
});

test.each(architectures)(
  "the lock file of llama-server for %s has its server, and each package once",
  (arch) => {
    const path = lockFile(llamaServer, arch);
    const text = readFileSync(path, "utf8");
    const read = parseLock(path, text);
    expect(read.packages.map(({ name }) => name)).toEqual(
      expect.arrayContaining(["llama.cpp-tools", "libc6"]),
    );
    expect(formatLock(read)).toBe(text);
    for (const each of read.packages) expect(each.path).toMatch(new RegExp(`_(${arch}|all)\\.deb$`));
  },
);

test.each([
  ["nothing", "", ["there is no line `created", "there is no package in it"]],
  [
    "a path out of the pool",
    `created 2027-01-15T12:00:00Z\na 1 ${digest} pool/../x.deb\n`,
    ["line 2: expected", "there is no package"],
  ],
  [
    "a short digest",
    `created 2027-01-15T12:00:00Z\nab 1 ${digest.slice(1)} pool/x.deb\n`,
    ["line 2: expected", "there is no package"],
  ],
  [
    "a package twice",
    `created 2027-01-15T12:00:00Z\nab 1 ${digest} pool/x.deb\nab 2 ${digest} pool/y.deb`,
    ["line 3: ab is there twice"],
  ],
  [
    "a time twice",
    `created 2027-01-15T12:00:00Z\ncreated 2027-01-15T12:00:00Z\nab 1 ${digest} pool/x.deb`,
    ["line 2: expected"],
  ],
  [
    "no such time",
    `created 2027-13-15T12:00:00Z\nab 1 ${digest} pool/x.deb`,
    ["line 1: expected", "there is no line `created"],
  ],
])("a lock file with %s is refused, with all that is wrong", (_, text, problems) => {
  let message = "";
  try {
    parseLock("lock", text);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    ({ message } = error as UserError);
  }
  expect(message.split("\n")).toEqual(
    problems.map((problem) => expect.stringContaining(`lock: ${problem}`) as string),
  );
});

test("apt's list of archives gives each its path on the mirror", () => {
  const printed = `NOTE: something
'http://mirror.example/debian/pool/main/g/gcc-16/libstdc%2b%2b6_16.2.0-4_amd64.deb' libstdc++6_16.2.0-4_amd64.deb 822380 MD5Sum:00
'http://mirror.example/debian/pool/main/l/llama.cpp/libllama0_0.7_amd64.deb' libllama0_1%3a0.7_amd64.deb 1 SHA256:00
`;
  expect([...archivePaths(printed, "http://mirror.example/debian")]).toEqual([
    ["libstdc++6_16.2.0-4_amd64.deb", "pool/main/g/gcc-16/libstdc%2b%2b6_16.2.0-4_amd64.deb"],
    ["libllama0_1%3a0.7_amd64.deb", "pool/main/l/llama.cpp/libllama0_0.7_amd64.deb"],
  ]);
});
