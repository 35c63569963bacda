from tests.jobs.conftest import bench as bench
from tests.jobs.conftest import nothing_counted_yet as nothing_counted_yet
from tests.mail_server import mail_server as mail_server
from tests.s3 import s3 as s3
from tests.s3 import s3_server as s3_server
from tests.third_parties import sandbox as sandbox
from tests.third_parties import third_parties as third_parties
