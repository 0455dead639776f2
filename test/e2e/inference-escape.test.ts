import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import { attempts, combinations, expectedOf, layers, type Layer } from "./escape/attempts.ts";
import { probeImage } from "./escape/image.ts";
import { inputsOf, observedOf, restartsAfterwards, startWith, tried, unitFilters } from "./escape/service.ts";
import { InferenceSupply, serviceOf, startPrepared, stateOf, type Supply } from "./inference-node.ts";
import { bringUp } from "./provider-on-pi.ts";

/*
 * Ways out of the container, tried from inside by foreign code in the place of the server: a signed image in the product's own unit, under its profiles. Each fails while
 * any of the layers is there that its row names, with that layer's own error, and goes through once they are away: docs/escape-suite.md.
 */

describe("escape suite", () => {
  const supplies = new InferenceSupply();
  let pi: VirtualPi;
  let supply: Supply;

  beforeAll(async () => {
    const { layout, digest } = await probeImage();
    supply = { ...(await supplies.signed(layout, digest, "probe")), model: await supplies.notAModel() };
    pi = await startPrepared(supply, supplies.key);
  });

  afterAll(async () => {
    // It does not exist when its start failed.
    await (pi as VirtualPi | undefined)?.stop();
    supplies[Symbol.dispose]();
  });

  const service = (on: readonly Layer[] = layers) => ({ ...serviceOf(supply), inputs: inputsOf(supply, on) });

  test("the product starts the probe as it would the server, and finds nothing that differs", async () => {
    await bringUp(pi, service());
  });

  describe.each(combinations)("$title", ({ on }) => {
    test("these layers are there, and no others", async () => {
      if (on !== layers) await startWith(pi, supply, on);
      const { confinement, health } = await stateOf(pi, service(on));
      expect(health).toBe("healthy");
      expect(confinement).toMatchObject(observedOf(supply, on));
      expect((await unitFilters(pi)) > 0, "the unit filters system calls").toBe(on.includes("unit"));
    });

    test("each attempt ends as its row says", async () => {
      const expected = attempts.map((attempt) => [attempt.name, expectedOf(attempt, on)]);
      expect(await tried(pi)).toEqual(Object.fromEntries(expected));
    });

    if (on.includes("limits"))
      test("the service is back after its process was killed", async () => {
        expect(await restartsAfterwards(pi)).toBe(1);
      });
  });
});
