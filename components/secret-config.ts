import * as pulumi from "@pulumi/pulumi";

/**
 * A secret from Pulumi configuration.
 * @param key Its key, with the namespace when it is not the project's: `sshKey`, `fleet:sshKey`.
 * @throws pulumi.RunError when it is not set, or not stored as a secret.
 */
export function secretFromConfig(key: string): pulumi.Output<string> {
  const [name = "", namespace] = key.split(":").reverse();
  const config = namespace === undefined ? new pulumi.Config() : new pulumi.Config(namespace);
  const mend = `pulumi config set --secret ${key}`;
  const value = config.getSecret(name);
  if (value === undefined) {
    throw new pulumi.RunError(
      `the site file refers to the configuration "${key}", which this stack does not have; ${mend}`,
    );
  }
  if (isPlainText(`${config.name}:${name}`)) {
    throw new pulumi.RunError(
      `the configuration "${key}" is stored in plain text; store it as a secret: ${mend}`,
    );
  }
  return value;
}

/** Whether the engine says that a key is not among the stack's secrets. It names them in the environment of the program. */
function isPlainText(key: string): boolean {
  const listed = process.env.PULUMI_CONFIG_SECRET_KEYS;
  if (listed === undefined) return false;
  const secrets = (JSON.parse(listed) as readonly string[]).map((each) => each.replace(":config:", ":"));
  return !secrets.includes(key);
}
