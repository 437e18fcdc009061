import math

from hypothesis import given
from hypothesis import strategies as st

from lab.training.data.pictures import Bucket, make_buckets, nearest_bucket


@given(st.sampled_from([(512, 64), (1024, 64), (128, 16), (64, 8)]))
def test_buckets_fill_the_area_and_fit_the_model(sizes):
    resolution, multiple = sizes
    buckets = make_buckets(resolution, multiple, many=True)
    assert Bucket(resolution, resolution) in buckets and len(buckets) == len(set(buckets)) > 3
    for bucket in buckets:
        assert bucket.width % multiple == bucket.height % multiple == 0
        assert bucket.width * bucket.height <= resolution**2
        assert 0.5 <= bucket.width / bucket.height <= 2
        assert Bucket(bucket.height, bucket.width) in buckets


@given(st.integers(20, 4000), st.integers(20, 4000))
def test_an_image_goes_to_the_nearest_aspect(width, height):
    buckets = make_buckets(512, 64, many=True)
    chosen = nearest_bucket(width, height, buckets)
    distances = {each: abs(math.log(each.width / each.height) - math.log(width / height)) for each in buckets}
    assert distances[chosen] <= min(distances.values()) + 1e-6


def test_a_square_image_is_not_made_smaller():
    assert nearest_bucket(300, 300, make_buckets(512, 64, many=True)) == Bucket(512, 512)


def test_one_square_bucket_without_many():
    assert make_buckets(500, 64, many=False) == [Bucket(448, 448)]
