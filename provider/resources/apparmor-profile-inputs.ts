import { posix } from "node:path";
import { Type, type Static } from "typebox";
import type { InputProblem } from "../resource.ts";
import { serviceName } from "./container-process.ts";
import { acceleratorPath, defaultAccelerator, variants } from "./server-variants.ts";

/** What a path may hold: nothing that is a pattern or a variable in AppArmor's language. */
const plainPath = "^(/[A-Za-z0-9._+-]+)+$";

export const appArmorProfileInputs = Type.Object({
  name: Type.String({
    pattern: serviceName,
    default: "inference",
    description:
      "The inference service that the profiles are for: lower-case letters, digits and hyphens, 22 at most, a letter first. `/etc/apparmor.d/edgeseal-NAME` holds both of them. Default `inference`.",
  }),
  modelDirectory: Type.String({
    pattern: plainPath,
    description:
      "Where the node keeps its models, e.g. `/srv/models/models`: an absolute path without symbolic links, on a sealed volume.",
  }),
  storage: Type.String({
    pattern: plainPath,
    description:
      "Where podman keeps the images of the service (`--root`), e.g. `/srv/models/containers/inference`: an absolute path without symbolic links, on a sealed volume.",
  }),
  variant: Type.Enum([...variants], {
    type: "string",
    default: "llama-server",
    description:
      "The server that is let do what it needs: `llama-server`, as tried; `ollama` and `hailo` (hailo-ollama with a Hailo-10H), after their sources, not tried. Default `llama-server`.",
  }),
  accelerator: Type.Optional(
    Type.String({
      pattern: acceleratorPath,
      description: `The device that the variant \`hailo\` may use, \`/dev/hailoN\` or \`/dev/h1x-N\`: that of the container. The others use none. Default \`${defaultAccelerator}\`.`,
    }),
  ),
});

export type AppArmorProfileInputs = Static<typeof appArmorProfileInputs>;

/** Paths with which a rule would mean another folder, or all of them. */
export function appArmorProfileProblems(inputs: AppArmorProfileInputs): InputProblem[] {
  return (["modelDirectory", "storage"] as const).flatMap((path) =>
    posix.normalize(inputs[path]) === inputs[path]
      ? []
      : [{ path, message: `expected a path without \`.\` and \`..\`, got '${inputs[path]}'` }],
  );
}
