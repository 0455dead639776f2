import { Type, type Static } from "typebox";
import type * as pulumi from "@pulumi/pulumi";
import type { Path } from "../../provider/host/values.ts";
import { onNodeFaults } from "../hook-faults.ts";
import type { Hooks } from "../hooks.ts";
import { isPlain, type Plain } from "./merge.ts";
import { secretReference } from "./secret-reference.ts";

const variable = secretReference("Value of the variable.");

const hook = Type.Object(
  {
    on: Type.Enum(["node", "here"], {
      type: "string",
      description:
        "Where it is run: on the `node`, over ssh as its login user, or `here`, on the machine that runs Pulumi.",
    }),
    command: Type.String({
      minLength: 1,
      maxLength: 16_384,
      description:
        "For `sh`. An exit status that is not 0 fails the update. No secrets: they belong in `environment`.",
    }),
    environment: Type.Optional(
      Type.Record(Type.String({ pattern: "^[A-Z_][A-Z0-9_]{0,63}$" }), variable, {
        additionalProperties: false,
        description:
          "Variables for the command, each from a secret in Pulumi configuration. Not for one on a node whose TPM is pinned, since that TPM is not asked before they are sent. Default none.",
      }),
    ),
    timeoutSeconds: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 3600, description: "How long it may take. Default 60." }),
    ),
  },
  { additionalProperties: false, description: "A command that nothing which edgeseal enforces depends on." },
);

/** `hooks` of a node, or of `defaults`. */
export const hooksSchema = Type.Object(
  {
    afterApply: Type.Optional(
      Type.Record(Type.String({ pattern: "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$" }), hook, {
        additionalProperties: false,
        description:
          "Run when all of the node is as declared, and again when its observed state is another one; by name. Needs Pulumi's plugin `command`.",
      }),
    ),
  },
  {
    additionalProperties: false,
    description: "One-off commands: a smoke test, a notification (docs/site-file.md).",
  },
);

export type HooksBlock = Static<typeof hooksSchema>;

/** What the component takes, from what a site file says. */
export const hooksArgs = (
  { afterApply = {} }: HooksBlock,
  secret: (key: string) => pulumi.Output<string>,
): Hooks =>
  Object.fromEntries(
    Object.entries(afterApply).map(([name, { environment = {}, ...rest }]) => [
      name,
      {
        ...rest,
        environment: Object.fromEntries(
          Object.entries(environment).map(([key, { config }]) => [key, secret(config)]),
        ),
      },
    ]),
  );

/** The hooks of a node as far as they have the form of any; what has not is a fault that the schema has told of. */
function hooksOf(node: unknown): readonly (readonly [string, Plain])[] {
  const hooks = isPlain(node) && isPlain(node.hooks) ? node.hooks.afterApply : undefined;
  return Object.entries(isPlain(hooks) ? hooks : {}).flatMap(([name, each]) =>
    isPlain(each) ? [[name, each] as const] : [],
  );
}

/** Where a literal secret would stand, below `at`: no message shows what is there. */
export const hookSecretPaths = (node: unknown, at: Path): readonly Path[] =>
  hooksOf(node).map(([name]) => [...at, "hooks", "afterApply", name, "environment"]);

/** What of a node keeps its hooks from being run on it, by the hook's name; so that `edgeseal site check` says it, too. */
export function hookFaults(node: Plain): readonly { readonly hook: string; readonly message: string }[] {
  return hooksOf(node)
    .filter(([, { on }]) => on === "node")
    .flatMap(([name, hook]) => onNodeFaults(hook, node).map((message) => ({ hook: name, message })));
}
