"""Makes two buckets with a writer and a reader each on a moto server; prints shell variables."""

import json
import sys
import time
import urllib.request

import boto3
from botocore.exceptions import EndpointConnectionError

READS = ["s3:GetObject", "s3:ListBucket"]
WRITES = READS + ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]


def client(service, endpoint):
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="setup",
        aws_secret_access_key="setup",
    )


def key_pair(iam, name, bucket, actions):
    iam.create_user(UserName=name)
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": actions, "Resource": resources}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=name, PolicyName="bucket", PolicyDocument=document)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def main(endpoint):
    s3, iam = client("s3", endpoint), client("iam", endpoint)
    for attempt in range(100):
        try:
            s3.list_buckets()
            break
        except EndpointConnectionError:
            if attempt == 99:
                raise
            time.sleep(0.1)
    for suffix, bucket in [("", "ours-of-the-tests"), ("2", "theirs-of-the-tests")]:
        s3.create_bucket(Bucket=bucket)
        writer = key_pair(iam, f"writer{suffix}", bucket, WRITES)
        reader = key_pair(iam, f"reader{suffix}", bucket, READS)
        print(f"export R2_BUCKET_ID{suffix}={bucket}")
        for role, (key_id, secret) in [("WRITE", writer), ("READ", reader)]:
            print(f"export R2_{role}_ACCESS_KEY_ID{suffix}='{key_id}'")
            print(f"export R2_{role}_SECRET_ACCESS_KEY{suffix}='{secret}'")
    # From here on moto checks signatures and policies.
    headers = {"content-type": "text/plain"}
    address = f"{endpoint}/moto-api/reset-auth"
    request = urllib.request.Request(address, data=b"0", headers=headers, method="POST")
    urllib.request.urlopen(request).read()


main(sys.argv[1])
