import { expect, test } from "vitest";
import { contextBytesPerToken, memoryProblems, systemMiB } from "../../../components/memory-budget.ts";

const MiB = 1024 ** 2;
/** Model 1000 + context 512 + server 160 + /tmp 16. */
const needs = {
  modelBytes: 1000 * MiB,
  contextTokens: 4096,
  contextBytesPerToken,
  tmpMiB: 16,
  memoryMaxMiB: 1688,
  scratchMiB: 0,
  nodeMemoryMiB: 1688 + systemMiB,
};

test("what fits to the mebibyte fits", () => {
  expect(memoryProblems(needs)).toEqual([]);
});

test.each([
  ["a model that is a byte larger", { modelBytes: needs.modelBytes + 1 }, /needs model 1001 \+ context 512/],
  ["a context of one token more", { contextTokens: 4097 }, /context 513 \(4097 tokens\)/],
  ["a larger /tmp", { tmpMiB: 17 }, /\/tmp 17 = 1689 MiB; allow it that, or take a smaller model or context/],
])("with %s the service may use too little", (_, change, message) => {
  expect(memoryProblems({ ...needs, ...change })).toEqual([
    { path: "memoryMaxMiB", message: expect.stringMatching(message) as string },
  ]);
});

test("a service that may use what the system needs does not fit the node, and what it could be is said", () => {
  expect(memoryProblems({ ...needs, nodeMemoryMiB: needs.nodeMemoryMiB - 1 })).toEqual([
    {
      path: "nodeMemoryMiB",
      message:
        "the node has 2071 MiB and no swap: the service may use 1688, the system keeps 384; lower `memoryMaxMiB` to 1687 (needed are 1688), or serve this model on a node with more memory",
    },
  ]);
});

test("both are told", () => {
  expect(
    memoryProblems({ ...needs, memoryMaxMiB: 1600, nodeMemoryMiB: 1024 }).map(({ path }) => path),
  ).toEqual(["memoryMaxMiB", "nodeMemoryMiB"]);
});

test("the node's scratch space is memory, too, as large as it may become", () => {
  const withScratch = { ...needs, scratchMiB: 768, nodeMemoryMiB: needs.nodeMemoryMiB + 768 };
  expect(memoryProblems(withScratch)).toEqual([]);
  expect(memoryProblems({ ...withScratch, nodeMemoryMiB: withScratch.nodeMemoryMiB - 1 })).toEqual([
    {
      path: "nodeMemoryMiB",
      message: expect.stringContaining(
        "the system keeps 384, its scratch space in memory (`scratch`) up to 768; lower `memoryMaxMiB` to 1687",
      ) as string,
    },
  ]);
});
