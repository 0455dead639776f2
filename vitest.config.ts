import { defineConfig } from "vitest/config";

const minutes = 60_000;
/** Tests on the virtual Pi with many boots each, or with podman at work in emulation: `./edgeseal test trust`. */
const trust = [
  "apparmor-profile",
  "attacks",
  "firmware-config",
  "firmware-trial-measured",
  "image-policy",
  "inference*",
  "measured-boot",
  "scratch",
  "sealed-volume*",
  "seccomp-profile",
  "tpm-ownership",
  "trust-chain",
  "update*",
  "volume-recover",
  "volume-rotation-cut",
].map((name) => `test/e2e/${name}.test.ts`);
/** What a tier of the virtual Pi runs with. An emulator keeps one processor busy. */
const onVirtualPi = {
  pool: "forks",
  maxWorkers: 2,
  testTimeout: 15 * minutes,
  hookTimeout: 20 * minutes,
} as const;
/** Each processor has a file: these tests wait for the programs that they start, and Vitest would leave one processor idle. */
const everyProcessor = { maxWorkers: "100%" } as const;
const otherTiers = ["test/provider/**", "test/device/**", "test/e2e/**", "test/arm64/**"];

/**
 * One project per tier of `./edgeseal test`. What is in none of the other tiers' folders is a unit test, so that no
 * test file can be left out by where it lies.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: otherTiers,
          pool: "threads",
          ...everyProcessor,
          // For what hangs alone: those that play every power cut take half a minute where the machine has other work.
          testTimeout: 120_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "provider",
          include: ["test/provider/**/*.test.ts"],
          // A provider is a process: some tests change directory and environment, which threads can't.
          pool: "forks",
          ...everyProcessor,
          testTimeout: 60_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "device",
          include: ["test/device/**/*.test.ts"],
          pool: "forks",
          // Fleets of sshd share loopback and the processors: more at once would only measure the queue.
          maxWorkers: 2,
          testTimeout: 2 * minutes,
          hookTimeout: 2 * minutes,
          sequence: { groupOrder: 2 },
        },
      },
      {
        test: {
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          exclude: trust,
          ...onVirtualPi,
          sequence: { groupOrder: 3 },
        },
      },
      {
        test: {
          name: "trust",
          include: trust,
          ...onVirtualPi,
          sequence: { groupOrder: 4 },
        },
      },
      {
        test: {
          name: "arm64",
          include: ["test/arm64/**/*.test.ts"],
          ...onVirtualPi,
          // Each is a whole way, emulated, and the first run builds the image.
          maxWorkers: 1,
          testTimeout: 60 * minutes,
          hookTimeout: 60 * minutes,
          sequence: { groupOrder: 5 },
        },
      },
    ],
  },
});
