import { afterAll, beforeAll, expect, test } from "vitest";
import type { SeccompProfileState } from "../../provider/resources/seccomp-profile-observation.ts";
import { arm64 } from "../../testbed/profile.ts";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import {
  completion,
  confinementOf,
  InferenceSupply,
  serviceOf,
  startPrepared,
  stateOf,
} from "../e2e/inference-node.ts";
import { bringUp, observe, onPi } from "../e2e/provider-on-pi.ts";

/*
 * What `proven on aarch64` stands on: Debian's llama-server for arm64 starts, answers and ends under its seccomp profile, on an arm64 kernel, with a real model.
 */

const supplies = new InferenceSupply();
let pi: VirtualPi;
let service: ReturnType<typeof serviceOf>;

beforeAll(async () => {
  const supply = await supplies.real("arm64");
  service = serviceOf(supply);
  pi = await startPrepared(supply, supplies.key, {
    profile: arm64,
    onProgress: (line) => process.stdout.write(`${line}\n`),
  });
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
  supplies[Symbol.dispose]();
});

test("it starts and answers, confined by both profiles", async () => {
  await bringUp(pi, service);
  expect(await completion(pi, "The capital of France is", 2)).toMatch(/^ [a-z]/i);
  expect((await stateOf(pi, service)).confinement).toMatchObject({
    seccomp: "profile",
    appArmor: "edgeseal-inference and edgeseal-inference-podman (enforce)",
  });
  expect(await observe<SeccompProfileState>(pi, confinementOf().seccomp)).toMatchObject({
    architecture: "aarch64",
    proof: "proven on aarch64",
    containerSeccomp: "filter",
  });
});

test("it ends in order", async () => {
  const unit = "edgeseal-inference.service";
  await onPi(pi, `systemctl stop ${unit}`);
  expect(await onPi(pi, `systemctl show -P Result -P ExecMainStatus ${unit}`)).toBe("success\n0\n");
});
