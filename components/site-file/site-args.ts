import type * as pulumi from "@pulumi/pulumi";
import type { SiteArgs, SiteNodeArgs } from "../site.ts";
import { hooksArgs } from "./hooks-schema.ts";
import type { NodeSpec, SiteSpec } from "./read.ts";

/**
 * What the Site component takes, from what a site file says.
 * @param secret Looks up a secret in Pulumi configuration by its key.
 */
export function siteArgs(spec: SiteSpec, secret: (key: string) => pulumi.Output<string>): SiteArgs {
  return {
    nodes: spec.nodes.map((node) => ({ ...nodeArgs(node, secret), assurance: spec.assurance })),
    waivers: spec.waivers,
  };
}

function nodeArgs(node: NodeSpec, secret: (key: string) => pulumi.Output<string>): SiteNodeArgs {
  const {
    name,
    address,
    port,
    user,
    hostKey,
    privateKey,
    identityCommand,
    identityFile,
    agent,
    onDelete,
    blocks,
    statements,
    trust,
    approval,
    hooks,
    registryAuth,
  } = node;
  return {
    name,
    connection: {
      address,
      hostKey,
      ...(port === undefined ? {} : { port }),
      ...(user === undefined ? {} : { user }),
      ...(privateKey === undefined ? {} : { privateKey: secret(privateKey.config) }),
      ...(identityCommand === undefined ? {} : { identityCommand }),
      ...(identityFile === undefined ? {} : { identityFile }),
      ...(agent === undefined ? {} : { agent }),
    },
    ...(onDelete === undefined ? {} : { onDelete }),
    ...blocks,
    ...(blocks.inference === undefined || registryAuth === undefined
      ? {}
      : {
          inference: {
            ...blocks.inference,
            registryAuth: { ...registryAuth, password: secret(registryAuth.password.config) },
          },
        }),
    statements,
    ...(trust === undefined ? {} : { trust }),
    ...(approval === undefined ? {} : { approval }),
    ...(hooks === undefined ? {} : { hooks: { afterApply: hooksArgs(hooks, secret) } }),
  };
}
