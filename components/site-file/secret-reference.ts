import { Type } from "typebox";

/** A secret as a site file names it: by its key in Pulumi configuration, never by its value. */
export const secretReference = (description: string) =>
  Type.Object(
    {
      config: Type.String({
        minLength: 1,
        description:
          "Key of the Pulumi configuration that holds it, set with `pulumi config set --secret KEY`.",
      }),
    },
    {
      additionalProperties: false,
      description: `${description} A reference to a secret in Pulumi configuration; a literal value is refused.`,
    },
  );
