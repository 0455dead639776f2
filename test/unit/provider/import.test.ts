import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { blockTypes } from "../../../policies/node.ts";
import type { Devices } from "../../../provider/device/device.ts";
import { InvalidRequest } from "../../../provider/host/errors.ts";
import type { Call } from "../../../provider/host/handler.ts";
import { lifecycle } from "../../../provider/lifecycle.ts";
import { kinds } from "../../../provider/registry.ts";
import type { ResourceKind } from "../../../provider/resource.ts";
import { goodStates } from "../policies/cases.ts";

const call = { signal: new AbortController().signal, urn: "urn:pulumi:dev::site::it" } as unknown as Call;

/** A kind's handler on a node that is as it should be. */
function handlerOf(kind: ResourceKind) {
  const block = Object.entries(blockTypes).find(([, token]) => token === kind.token)?.[0];
  const state = block === undefined ? undefined : goodStates[block as keyof typeof goodStates];
  const observe = (_kind: ResourceKind, inputs: object): Promise<object> => {
    kind.observe(inputs as never);
    return Promise.resolve({ outcome: "present", state });
  };
  const devices = { get: () => ({ observe }) } as unknown as Devices;
  return lifecycle(kind, () => Promise.resolve(devices));
}

const idOf = ({ instanceKey }: ResourceKind): string =>
  `ssh://10.0.0.2/pi-1?hostKey=SHA256%3A${"A".repeat(43)}${instanceKey === undefined ? "" : "#chat"}`;

const read = (kind: ResourceKind) =>
  handlerOf(kind).read({ id: idOf(kind), inputs: undefined, state: {} }, call);

const nameOf = ({ token }: ResourceKind): string => token.split(":").at(-1) ?? token;

/** What some input of each is, that no node tells. */
const refused: Readonly<Record<string, string>> = {
  Firewall: "management",
  MeasuredBoot: "node",
  Ownership: "recoveryPublicKey",
  SealedVolume: "mountPoint",
  Model: "statement",
  AppArmorProfile: "modelDirectory",
  InferenceContainer: "modelDirectory",
};

describe("pulumi import of a real kind", () => {
  test.each(kinds.filter((kind) => !(nameOf(kind) in refused)))(
    "$token: gives inputs that pass its own check",
    async (kind) => {
      const found = await read(kind);
      expect(found?.inputs).toMatchObject({ connection: { node: "pi-1", address: "10.0.0.2" } });
      const { failures } = await handlerOf(kind).check(
        { oldInputs: {}, inputs: found?.inputs ?? {}, secrets: [] } as never,
        call,
      );
      expect(failures).toEqual([]);
    },
  );

  test.each(kinds.filter((kind) => nameOf(kind) in refused))(
    "$token: is refused, with the inputs that no node tells, and the mend",
    async (kind) => {
      const failure: unknown = await read(kind).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(InvalidRequest);
      const { message } = failure as InvalidRequest;
      expect(message).toMatch(
        / can't be imported: no node tells its .*; declare it instead, and `pulumi up`/,
      );
      expect(message).toContain(refused[nameOf(kind)]);
    },
  );

  test("docs/programs.md names those that are refused", () => {
    const docs = readFileSync(new URL("../../../docs/programs.md", import.meta.url), "utf8");
    const named = /that no node tells\s+\(([^)]*)\)/.exec(docs)?.[1] ?? "";
    expect(named.match(/\w+/g)).toEqual(Object.keys(refused));
  });
});
