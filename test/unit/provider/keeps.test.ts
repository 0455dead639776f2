import { expect, test } from "vitest";
import type { Devices } from "../../../provider/device/device.ts";
import { InitializationFailed } from "../../../provider/host/errors.ts";
import type { Call } from "../../../provider/host/handler.ts";
import type { Properties } from "../../../provider/host/values.ts";
import { lifecycle } from "../../../provider/lifecycle.ts";
import { kinds } from "../../../provider/registry.ts";
import type { ResourceKind } from "../../../provider/resource.ts";
import { goodStates } from "../policies/cases.ts";

/* A copy of what must not be lost with the node outlives what the node has of it. */

const call = {
  signal: new AbortController().signal,
  urn: "urn:pulumi:dev::site::it",
  log: { status: () => undefined, warn: () => undefined, debug: () => undefined },
} as unknown as Call;

const kindOf = (token: string): ResourceKind =>
  kinds.find((kind) => kind.token === token) ?? expect.fail(`no ${token}`);

/** A kind's handler on a node that shows this, whatever is done. */
function handlerOf(kind: ResourceKind, state: object) {
  const observed = { outcome: "present", state };
  const device = {
    observe: () => Promise.resolve(observed),
    route: () => Promise.resolve({}),
    apply: () => Promise.resolve({ steps: [], observed }),
  };
  const devices = { get: () => device } as unknown as Devices;
  const never = {
    observe: () => ({ id: "it" }) as never,
    plan: () => [{} as never],
    desired: () => ({ done: true }),
  };
  return lifecycle({ ...kind, ...never }, () => Promise.resolve(devices));
}

const connection = {
  node: "pi-1",
  address: "10.0.0.2",
  user: "edge",
  hostKey: `SHA256:${"A".repeat(43)}`,
};

test.each<[string, string, object, Properties, Properties]>([
  [
    "a volume's recovery ciphertext",
    "edgeseal:storage:SealedVolume",
    { ...goodStates.volumes, recoveryKey: "", recoveryCiphertext: "" },
    { recoveryCiphertext: "once" },
    { recoveryCiphertext: "once" },
  ],
  [
    "the other one of a TPM's two",
    "edgeseal:tpm:Ownership",
    { ...goodStates.tpm, ownerAuth: "foreign", recovery: { lockout: "now" } },
    { recovery: { owner: "once", lockout: "once" } },
    { recovery: { owner: "once", lockout: "now" } },
  ],
])(
  "%s stays in the state by a refresh and by an update that fails",
  async (_, token, shown, recorded, kept) => {
    const handler = handlerOf(kindOf(token), shown);
    const inputs = { connection, name: "models", mountPoint: "/srv/models", node: "pi-1" } as Properties;
    const read = await handler.read({ id: "pi-1/it", inputs, state: recorded }, call);
    expect(read?.state).toEqual({ ...shown, ...kept });
    const failure: unknown = await handler
      .update(
        { id: "pi-1/it", oldInputs: inputs, oldState: recorded, newInputs: inputs, preview: false },
        call,
      )
      .catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(InitializationFailed);
    expect((failure as InitializationFailed).state).toEqual({ ...shown, ...kept });
  },
);
