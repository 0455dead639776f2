import { Type, type Static } from "typebox";
import { nearest } from "../check/nearest.ts";
import type { InputProblem } from "../resource.ts";
import { serviceName } from "./container-process.ts";
import { syscallNames } from "./seccomp-profile-names.ts";
import { variants } from "./server-variants.ts";

export const seccompProfileInputs = Type.Object({
  name: Type.String({
    pattern: serviceName,
    default: "inference",
    description:
      "The inference service that the profile is for: lower-case letters, digits and hyphens, 22 at most, a letter first. `/etc/edgeseal/seccomp/NAME.json` is the profile. Default `inference`.",
  }),
  variant: Type.Enum([...variants], {
    type: "string",
    default: "llama-server",
    description:
      "The server that is let do what it needs: `llama-server`, as recorded; `ollama` and `hailo` (hailo-ollama with a Hailo-10H), after their sources, not recorded. Default `llama-server`, the strictest.",
  }),
  additionalSyscalls: Type.Array(Type.String({ pattern: "^[a-z_][a-z0-9_]*$" }), {
    default: [],
    uniqueItems: true,
    description:
      "System calls that are allowed besides, whatever their arguments, by name. Each makes the profile looser, and the gate looks at them. Default none.",
  }),
});

export type SeccompProfileInputs = Static<typeof seccompProfileInputs>;

/** Names that no kernel has: libseccomp would pass over them without a word. */
export function seccompProfileProblems({ additionalSyscalls }: SeccompProfileInputs): InputProblem[] {
  const { x86_64: known } = syscallNames;
  return additionalSyscalls.flatMap((name, index) => {
    if (known.has(name)) return [];
    const near = nearest(name, [...known]);
    return [
      {
        path: `additionalSyscalls[${index}]`,
        message: `there is no system call ${JSON.stringify(name)}${near === undefined ? "; `man 2 syscalls` lists them" : `; did you mean ${JSON.stringify(near)}?`}`,
      },
    ];
  });
}
